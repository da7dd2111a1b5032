"""HTTP in front of the engine: schemas, errors, admission, streaming, metrics, playground. No math, no torch."""
