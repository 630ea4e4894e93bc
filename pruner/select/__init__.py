"""Selections: the index of scores, bands of ranks, manifests, previews and summaries."""
