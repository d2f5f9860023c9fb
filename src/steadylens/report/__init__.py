"""A run as one offline page that a person reads."""
