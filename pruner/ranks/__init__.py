"""Ranks of documents in any order, and the runs of ranks that selections keep, in memory that no corpus size grows."""
