"""C that a measurement asked for, compiled where it runs."""
