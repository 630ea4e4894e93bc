"""Classifiers: sequence-classification models of transformers with one output, which give each document a value."""
