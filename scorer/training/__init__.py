"""Training of small references."""
