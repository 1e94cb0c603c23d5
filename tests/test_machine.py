"""What is found out of the machine without heavy libraries, beside what those say."""

import subprocess
import sys

import pytest
import torch

from brimful.cpus import BF16_FLAGS, cpu_flags, cpu_model
from brimful.gpus import find_gpus, torch_cuda


def test_as_many_gpus_as_pytorch_finds():
    assert find_gpus().count == torch.cuda.device_count()


def test_hidden_gpus_are_not_there(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code = "import sys; from brimful.gpus import find_gpus; print(find_gpus().count, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *modules = done.stdout.split()
    assert count == "0"
    assert "torch" not in modules


def test_the_cuda_of_pytorch():
    version = torch.version.cuda
    assert torch_cuda() == (None if version is None else int(version.split(".")[0]))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("cuda: Optional[str] = '12.8'", 12),
        ('cuda = "11.8"', 11),
        ("cuda: Optional[str] = None", None),
        ("cudart = '13.0'", None),
        ("", None),
    ],
)
def test_versions_of_pytorch(line, found, tmp_path, monkeypatch):
    (tmp_path / "version.py").write_text(f"__version__ = '2.9.0'\n{line}\nhip = None\n")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr("brimful.gpus.importlib.util.find_spec", lambda name: spec)
    assert torch_cuda() == found


def test_flags_say_bf16_where_openvino_does():
    import openvino

    if not cpu_flags():
        pytest.skip("this kernel does not list what its CPU can do")
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert bool(cpu_flags() & BF16_FLAGS) == ("BF16" in capabilities)


def test_the_cpu_has_a_name():
    assert cpu_model()
