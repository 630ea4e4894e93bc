"""Tables and the storage that they are written to."""
