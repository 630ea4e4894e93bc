"""The wire models, permissions and network rules. Imports no FastAPI and no Redis."""
