"""Causal language models that score: loading, bodies, heads, windows."""
