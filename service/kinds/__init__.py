"""The kinds of artefacts, one file each."""
