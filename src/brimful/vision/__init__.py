"""Pixels: canvas geometry, letterbox, decode, NMS, and one file per task head."""
