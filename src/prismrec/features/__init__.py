"""Content to vectors: encoders, the store they fill, and the extraction between the two."""
