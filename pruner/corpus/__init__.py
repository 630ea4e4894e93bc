"""Corpora: finding, checking and planning their files, and reading shards in a sandbox."""
