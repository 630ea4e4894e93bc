"""Corpora in, manifests out: reading, planning, score files, exact selection, reports. Imports no torch."""
