"""The JSON of the API, sets of names, permissions, quotas, address rules. Imports no FastAPI and no Redis."""
