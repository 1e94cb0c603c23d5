"""The `torch` runtime on CUDA: fused kernels, captured graphs, decode on the device."""
