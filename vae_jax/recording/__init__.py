"""What a run writes down while it goes on: numbers, pictures, tables."""
