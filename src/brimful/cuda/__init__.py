"""CUDA itself: driver, context, streams, graphs, memory."""
