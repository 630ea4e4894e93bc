"""Leases on opaque tasks, in Redis and in memory; the index of jobs; requests to score a few texts."""
