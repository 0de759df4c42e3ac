"""A paper's table: models x data sets x seeds, measured in one way, with what may be concluded from it."""
