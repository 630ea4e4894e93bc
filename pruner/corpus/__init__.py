"""Corpora: paths, files, plans, and reading shards in a sandbox."""
