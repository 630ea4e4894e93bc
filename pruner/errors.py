"""The one error that a user's input raises in this room."""


class InputError(Exception):
    """Something the user gave is wrong. The message is one line: it names the file, row or field, and what to do."""
