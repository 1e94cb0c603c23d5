"""What `auto` becomes in a job, and what a resumed job keeps of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_kit import brimful, rows, write_images

from brimful.cli.defaults import resolve_defaults
from brimful.cpus import available_cpus
from brimful.errors import UsageError
from brimful.models.model import ModelOptions
from brimful.runtimes.choice import Choice
from brimful.runtimes.cost import JobSize
from onnx_models import onnx_file

PHOTO = Path(__file__).parents[2] / "docs" / "preview.jpg"
"""A source of one image."""

AUTO = {"device": "auto", "runtime": "auto", "precision": "auto", "half": False}


def resolved(path: Path | None, *, resumes: Path | None = None, **options):
    job = {"source": str(PHOTO), "canvas": "auto", "threads": None}
    return resolve_defaults(path, ModelOptions(), **{**AUTO, **job, **options}, resumes=resumes)


def interrupted(folder: Path, **job: object) -> Path:
    output = folder / "out.jsonl"
    (folder / "out.jsonl.job.json").write_text(json.dumps({"version": 1, "job": {"job": job}}))
    return output


@pytest.mark.parametrize(("runtime", "precision"), [("onnxruntime", "fp32"), ("openvino", "fp32")])
def test_a_resumed_job_keeps_what_auto_was(runtime, precision, tmp_path):
    output = interrupted(tmp_path, runtime=runtime, precision=precision)
    path = onnx_file("yolov8n.yaml")
    choice = resolved(path, device="cpu", resumes=output).choice
    assert (choice.runtime, choice.precision) == (runtime, precision)
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}[runtime]
    assert resolved(path, device="cpu", runtime=other, resumes=output).choice.runtime == other


@pytest.mark.parametrize("text", ["", "[]", '{"job": 5}', '{"job": {"job": {"runtime": 5}}}'])
def test_a_job_file_that_says_nothing(text, tmp_path):
    (tmp_path / "out.jsonl.job.json").write_text(text)
    path = onnx_file("yolov8n.yaml")
    assert resolved(path, device="cpu", resumes=tmp_path / "out.jsonl") == resolved(
        path, device="cpu"
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_half_is_fp16_and_nothing_else(precision):
    path = onnx_file("yolov8n.yaml")
    assert resolved(path, device="cuda:0", half=True).choice.precision == "fp16"
    with pytest.raises(UsageError, match=f"precision={precision} was given"):
        resolved(path, device="cuda:0", half=True, precision=precision)


def test_python_m(tmp_path):
    names = write_images(tmp_path / "images", 3)
    options = ("--runtime", "debug", "--source", tmp_path / "images")
    done = brimful("predict", *options, program=(sys.executable, "-m", "brimful"))
    assert [row["image"] for row in rows(done.stdout)] == names
    assert b"device cpu" in done.stderr and b"precision fp32" in done.stderr


def test_python_m_starts_engine_processes(tmp_path):
    names = write_images(tmp_path / "images", 3)
    options = ("--runtime", "debug", "--device", "cpu,cpu", "--source", tmp_path / "images")
    done = brimful("predict", *options, program=(sys.executable, "-m", "brimful"))
    assert [row["image"] for row in rows(done.stdout)] == names, done.stderr


def test_all_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_images(tmp_path / "images", 1)
    options = ("--model", onnx_file("yolov8n.yaml"), "--source", tmp_path / "images")
    done = brimful("predict", *options, "--device", "all")
    assert done.returncode == 2
    assert b"--device all means every GPU, and this process has none" in done.stderr


def test_no_module_named_torch_is_imported_for_an_onnx_file(tmp_path):
    """PyTorch takes seconds to import."""
    write_images(tmp_path / "images", 1)
    code = "import sys; from brimful.cli.main import run; print(run(sys.argv[1:]), *sys.modules)"
    options = ("--model", onnx_file("yolov8n.yaml"), "--source", tmp_path / "images")
    for runtime in ("onnxruntime", "openvino"):
        done = brimful(
            *("predict", *options, "--runtime", runtime, "--device", "cpu", "--imgsz", 64),
            *("--output", tmp_path / f"{runtime}.jsonl"),
            program=(sys.executable, "-c", code),
        )
        status, *modules = done.stdout.decode().split()
        assert status == "0", done.stderr
        assert not {"torch", "ultralytics", "onnx"} & set(modules)


def test_a_model_is_judged_as_it_will_be_read(monkeypatch):
    """Otherwise another head of a .pt would be converted, and measured."""
    seen = {}

    def remember(runtime, precision, model, device, job):
        seen.update(options=model.options, job=job)
        return Choice("onnxruntime", "fp32")

    monkeypatch.setattr("brimful.cli.defaults.choose", remember)
    options = ModelOptions(nms=True, trust=True, max_det=1000)
    job = {"source": str(PHOTO), "canvas": "square", "threads": 3}
    resolve_defaults(
        onnx_file("yolov8n.yaml"), options, **{**AUTO, "device": "cpu"}, **job, resumes=None
    )
    assert seen == {"options": options, "job": JobSize(images=1, canvases=1, threads=3)}


@pytest.mark.parametrize(
    ("device", "threads"), [("cpu", available_cpus()), ("cpu,cpu", max(1, available_cpus() // 2))]
)
def test_a_process_is_judged_by_its_share_of_the_cpus(device, threads, monkeypatch):
    seen = []

    def remember(runtime, precision, model, device, job):
        seen.append(job.threads)
        return Choice("onnxruntime", "fp32")

    monkeypatch.setattr("brimful.cli.defaults.choose", remember)
    resolved(onnx_file("yolov8n.yaml"), device=device)
    assert seen == [threads]
