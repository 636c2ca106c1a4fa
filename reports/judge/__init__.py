"""What follows from the tables: ratios, bounds, verdicts, each with its interval and its reason."""
