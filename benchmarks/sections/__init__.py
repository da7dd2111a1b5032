"""The sections of the benchmark. Each module has `estimate_s(bench)` and `measure(bench)`, which returns its figures."""
