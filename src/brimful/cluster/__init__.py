"""Several devices: one engine process each, one work queue, one ordered output."""
