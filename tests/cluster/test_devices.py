import pytest

from brimful.cluster.devices import cpu_share, parse_devices, worker_share
from brimful.errors import UsageError


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("auto", ["auto"]),
        (" All ", ["all"]),
        ("cpu", ["cpu"]),
        ("0", ["cuda:0"]),
        ("cuda", ["cuda:0"]),
        ("cuda:1", ["cuda:1"]),
        ("0,1,2,3", ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]),
        ("cuda:0,1", ["cuda:0", "cuda:1"]),
        ("[0, 1]", ["cuda:0", "cuda:1"]),
        (" 2 , CUDA:1 ", ["cuda:2", "cuda:1"]),
        ("cpu,cpu", ["cpu", "cpu"]),
        ("0,0", ["cuda:0", "cuda:0"]),
    ],
)
def test_spellings(text, devices):
    assert parse_devices(text) == devices


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "auto,0",
        "cpu,all",
        "0,,1",
        "0,",
        "gpu",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "mps",
        "1.5",
        "0;1",
        "²",
    ],
)
def test_what_is_no_device_says_what_is(text):
    with pytest.raises(
        UsageError, match=r"is no device; expected auto, all, cpu, cuda, .* 0,1,2,3"
    ):
        parse_devices(text)


@pytest.mark.parametrize("text", ["-1", "-1,-1", "0,-1"])
def test_idle_gpus_are_not_looked_for(text):
    with pytest.raises(UsageError, match="does not look for idle GPUs; name those to use"):
        parse_devices(text)


def test_kinds_are_not_mixed():
    with pytest.raises(UsageError, match="mixes CPU and GPUs"):
        parse_devices("0,cpu")


def test_shares():
    assert [cpu_share(cpus, 4) for cpus in (1, 4, 15, 64)] == [1, 1, 3, 16]
    assert [worker_share(cpus, 4) for cpus in (1, 4, 15, 64)] == [1, 1, 3, 8]
