"""In production: a trained run that answers requests, takes new items while it runs, and can be looked at."""
