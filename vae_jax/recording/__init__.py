"""What a run records while it trains: metrics, figures and tables."""
