"""Exports: the kept documents of corpus files, written as corpus files again."""
