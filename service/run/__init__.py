"""Processes: the service, its private Redis, its workers, retention, settings."""
