"""A fitted model with its catalogue, features and vocabulary: what is trained, evaluated, asked and saved."""
