"""Commands that train or compare many runs."""
