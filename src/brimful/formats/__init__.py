"""Detections in the formats of others: pure functions, no files."""
