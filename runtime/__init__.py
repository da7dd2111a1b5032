"""The engine: an artifact directory in; scores, vectors or tokens out. No HTTP, no BentoML, no training."""
