"""Bytes to tensors: reading, auditing, splitting and decoding images."""
