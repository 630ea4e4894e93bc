"""Tunes the test process as a worker is tuned, before any test here imports torch."""

from scorer.process import tune_process

tune_process()
