"""Data from outside: documents (YAML settings) and rows (CSV, TSV, JSONL, Parquet) on disk or S3, each bad one named.

Shared by training and batch. Knows nothing of models.
"""
