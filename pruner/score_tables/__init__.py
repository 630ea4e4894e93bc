"""Selections over score tables of anyone: Parquet files with a numeric column."""
