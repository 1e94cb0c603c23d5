"""On a device: the kernels that a fused NMS-free detector launches are all our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from model_files import saved

pytestmark = pytest.mark.gpu

FOREIGN = ("at::", "at_cuda", "cublas", "cudnn", "cutlass", "gemm", "nvjet", "elementwise")
"""Parts of the names of kernels of PyTorch and of the libraries that it calls."""

OURS = ("_conv", "_best_scores", "_best_pairs", "pick_rows", "write_rows", "read_scans")
"""Without these nothing was seen, and the test would say nothing."""

SIZES = ((480, 640), (640, 480), (480, 640), (300, 500), (720, 720))

SCRIPT = """
import json, sys
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

if __name__ == "__main__":
    model, precision, *files = sys.argv[1:]
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        from brimful.load import load

        options = dict(runtime="torch", device="cuda:0", precision=precision, batch=4)
        with load(model, **options) as engine:
            found = [list(engine.predict(files)) for _ in range(2)]
    names = {event.name for event in seen.events() if event.device_type == DeviceType.CUDA}
    errors = [str(one.error) for results in found for one in results if one.error]
    print(json.dumps({"names": sorted(names), "count": len(found[0]), "errors": errors}))
"""


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_no_kernel_is_pytorchs(precision: str, tmp_path: Path) -> None:
    files = []
    for i, (height, width) in enumerate(
        ((480, 640), (640, 480), (480, 640), (300, 500), (720, 720))
    ):
        noise = np.random.default_rng(i).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        path = tmp_path / f"{i}.jpg"
        cv2.imwrite(str(path), cv2.resize(noise, (width, height)))
        files.append(str(path))
    command = [sys.executable, "-c", SCRIPT, str(saved("yolo26n.yaml")), precision, *files]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert (told["count"], told["errors"]) == (len(files), [])
    names = told["names"]
    missing = [part for part in OURS if not any(part in name for name in names)]
    assert not missing, f"not seen: {missing}, only {names}"
    foreign = [name for name in names if any(part in name for part in FOREIGN)]
    assert not foreign, "\n".join(foreign)
