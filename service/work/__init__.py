"""The worker: claims tasks and runs them, in a pool or in one process."""
