"""The network as kernels of our own."""
