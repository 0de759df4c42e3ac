"""prismrec: recommendations for items that nobody has clicked yet."""
