"""A model over files or S3: shards scored by the engine that serves, each committed by one conditional write."""
