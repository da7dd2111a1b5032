"""Labelled data to a published artifact: train, compress, evaluate, publish. Every step hands over a directory."""
