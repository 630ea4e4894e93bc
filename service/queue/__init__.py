"""Leases on opaque tasks in Redis, the index of jobs, and requests to score a few texts."""
