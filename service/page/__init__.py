"""The page: what the service shows to people, server-rendered over the same API that everyone uses."""
