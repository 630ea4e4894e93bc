"""Ablations: proxy models trained on several selections, compared. Data of the arms, tasks, statistics; no model."""
