"""Shares the artifact cache."""

from model_files import artifact_cache  # noqa: F401
