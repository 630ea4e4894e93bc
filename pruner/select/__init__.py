"""Selections: the index of scores and its other orders, manifests, previews, summaries, how scores compare."""
