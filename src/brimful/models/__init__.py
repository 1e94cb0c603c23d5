"""Model files to ModelSpec and weights; the artifact cache."""
