"""Tokenizers and their fast back-ends."""
