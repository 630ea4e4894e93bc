"""The life of a job: its graph of artefacts, its status, its end; its exports, ablations and scores for users."""
