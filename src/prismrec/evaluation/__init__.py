"""How good recommendations are: exact ranks, metrics, significance, slices, reports."""
