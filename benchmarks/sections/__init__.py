"""The sections. Each module has `estimate_s(bench)`, in seconds, and `measure(bench)`, which returns its figures."""
