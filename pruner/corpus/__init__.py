"""Corpora in: paths, files, plans, and the sandboxed reader."""
