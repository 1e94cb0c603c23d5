"""The stages around the network on the GPU: letterbox before it, selection behind it.

Everything here is written in Triton, and runs in Triton's interpreter on CPU tensors as well
(`TRITON_INTERPRET=1`, set before Triton is imported), which is how it is tested without a GPU.
"""
