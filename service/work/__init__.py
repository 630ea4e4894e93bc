"""The worker, which claims tasks and runs them, in a pool or in one process; and jobs without a server."""
