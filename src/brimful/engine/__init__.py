"""Decode, preprocess, forward, postprocess on one device, overlapped."""
