"""Storage, and the files that a shard's documents and scores are stored in."""
