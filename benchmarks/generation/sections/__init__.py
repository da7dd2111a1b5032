"""The sections about generation; see benchmarks/sections."""
