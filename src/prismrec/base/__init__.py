"""What every room stands on: errors, atomic files, progress. It knows nothing of recommendation."""
