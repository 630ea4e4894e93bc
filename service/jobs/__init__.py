"""The life of a job: its graph of artefacts, its status, its end."""
