"""The HTTP API: authentication, errors, downloads, metrics, routes."""
