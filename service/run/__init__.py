"""Processes: the service and its app, its private Redis, its workers, retention, settings."""
