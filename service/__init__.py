"""Jobs over HTTP: the API, the queue and the worker pool, the command line."""

__version__ = "0.2.0"
