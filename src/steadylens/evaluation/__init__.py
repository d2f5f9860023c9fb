"""Weights to trust: what the figures are, and whether the probabilities can be believed."""
