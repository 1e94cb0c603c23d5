"""What executes a model: one small file per runtime, and the registry."""
