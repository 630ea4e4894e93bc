"""Exact selections: the index of ranks, bands, manifests."""
