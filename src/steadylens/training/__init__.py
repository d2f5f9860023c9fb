"""Logits to weights: losses, regularisation, the training loop, selection and diagnosis."""
