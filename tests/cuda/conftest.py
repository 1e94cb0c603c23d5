"""The kernels' tests run in Triton's interpreter where there is no GPU."""

from kernel_fixtures import device, quiet_arithmetic

__all__ = ["device", "quiet_arithmetic"]
