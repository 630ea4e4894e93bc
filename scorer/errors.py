"""The one error that a wrong reference raises in this room."""


class BadReference(Exception):
    """A reference model cannot be used. The message, one line, names the folder and tensor or file, and what to do."""
