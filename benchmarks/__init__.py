"""The served product against the raw limit of the same artifact, interleaved in one run on one machine."""
