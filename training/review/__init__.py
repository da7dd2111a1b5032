"""Which samples are wrong, repeated, contradictory or out of place; the sheet a person decides on; the next version."""
