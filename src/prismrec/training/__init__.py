"""Training: negatives, the loop, checkpoints."""
