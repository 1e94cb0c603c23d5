"""Images onto the device: files, frames, pixels."""
