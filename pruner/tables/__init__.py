"""A storage and its records, the files of shards, and the public tables: written, joined, read in parts."""
