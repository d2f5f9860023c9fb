"""Trust to use: the artifact, and what predicts with it."""
