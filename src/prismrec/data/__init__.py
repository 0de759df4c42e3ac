"""What comes in: interactions, catalogue, data set, splits, and where they come from."""
