"""Puts tests/ on the import path, and takes the clock out of hypothesis."""

from hypothesis import settings

settings.register_profile("brimful", deadline=None)
settings.load_profile("brimful")
