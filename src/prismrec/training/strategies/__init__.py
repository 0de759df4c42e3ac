"""How a step is taken: once down the gradient, or with a look around first."""
