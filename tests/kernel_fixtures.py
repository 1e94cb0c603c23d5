"""Without a GPU the kernels run in Triton's interpreter, on CPU tensors."""

import os
import sys

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            "a test module imported triton (torchvision does) before the kernels' tests could turn "
            "its interpreter on; import it inside the tests that need it"
        )
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def quiet_arithmetic():
    """The interpreter computes in numpy, which warns where a GPU answers with NaN."""
    with np.errstate(all="ignore"):
        yield
