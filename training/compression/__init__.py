"""Compression: a pipeline of steps, each an artifact that is judged and measured (docs/compression.md)."""
