"""The spellings of an option."""

from __future__ import annotations

import os
import re

import click
import pytest

from brimful.cli.arguments import known_options, normalise
from brimful.cli.choices import (
    FailureLimit,
    parse_classes,
    parse_failures,
    parse_imgsz,
    parse_names,
    parse_switch,
    quantized,
)
from brimful.cli.main import root
from brimful.cli.ultralytics import ANSWERS
from brimful.errors import UsageError

os.environ.setdefault("YOLO_OFFLINE", "1")  # Ultralytics probes the network when imported


def normal(*arguments: str) -> list[str]:
    return normalise(list(arguments), root)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["imgsz=640"], ["--imgsz=640"]),
        (["max_det=5"], ["--max-det=5"]),
        (["--max_det", "5"], ["--max-det", "5"]),
        (["--max_det=5"], ["--max-det=5"]),
        (["half=True"], ["--half"]),
        (["half=true"], ["--half"]),
        (["half=1"], ["--half"]),
        (["half=False"], ["--no-half"]),
        (["agnostic_nms=False"], ["--no-agnostic-nms"]),
        (["trust_model=False"], []),  # a flag without a negation
        (["nms=True"], ["--nms=True"]),  # not a flag: it has a third state
        (["nms=None"], []),
        (["classes=None"], []),
        (["source=true"], ["--source=true"]),  # a folder may be called so
        (["source=a=b.jpg"], ["--source=a=b.jpg"]),
        (["source="], ["--source="]),
        (["conf=-1"], ["--conf=-1"]),
        (["imgzs=640"], ["--imgzs=640"]),  # the parser complains
        (["half=maybe"], ["--half=maybe"]),
        (["--source", "date=2024-01-01"], ["--source", "date=2024-01-01"]),
        (["--source", "--half"], ["--source", "--half"]),
        (["--half", "date=1"], ["--half", "--date=1"]),
        (["--", "a=b"], ["--", "a=b"]),
        (["A=b", "-h"], ["A=b", "-h"]),
        (["--source=x", "imgsz=3"], ["--source=x", "--imgsz=3"]),
    ],
)
def test_normalise(given, expected):
    assert normal("predict", *given) == ["predict", *expected]


def test_without_a_verb_nothing_is_known_to_be_a_flag():
    assert normal("half=True") == ["--half=True"]
    assert normal() == []


def test_every_option_of_every_verb_can_be_written_as_a_pair():
    for verb in root.commands.values():
        for option in verb.params:
            assert isinstance(option, click.Option)
            key = option.opts[-1].removeprefix("--").replace("-", "_")
            (written,) = normal(verb.name, f"{key}=true")[1:]
            assert written == (option.opts[-1] if option.is_flag else f"{option.opts[-1]}=true")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["detect", "predict", "conf=1"], ["predict", "--task=detect", "--conf=1"]),
        (["predict", "segment", "conf=1"], ["predict", "--task=segment", "--conf=1"]),
        (["mode=predict", "conf=1"], ["predict", "--conf=1"]),
        (["task=pose", "mode=predict"], ["predict", "--task=pose"]),
        (["predict", "mode=predict", "conf=1"], ["predict", "--conf=1"]),
        (["predict", "--source", "mode=train"], ["predict", "--source", "mode=train"]),
        (["predict", "--", "mode=train"], ["predict", "--", "mode=train"]),
        (["predict", "augment=False", "embed=None"], ["predict"]),
        (["predict", "retina_masks=True", "stream_buffer=true"], ["predict"]),
        (["predict", "--retina-masks", "--stream_buffer"], ["predict"]),
        (["predict", "--source", "--augment"], ["predict", "--source", "--augment"]),
        (["info", "detect"], ["info", "detect"]),
        (["demo", "augment=True"], ["demo", "--augment=True"]),  # the parser complains
    ],
)
def test_words_of_ultralytics(given, expected):
    assert normal(*given) == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["train", "data=coco8.yaml"], "no mode 'train'.*yolo train"),
        (["segment", "val"], "no mode 'val'"),
        (["mode=export", "model=x.pt"], "no mode 'export'"),
        (["predict", "mode=track"], "no mode 'track'"),
        (["predict", "augment=True"], "augment: there is no test-time augmentation"),
        (["predict", "--augment"], "augment: "),
        (["predict", "--visualize=True"], "visualize: "),
        (["predict", "embed=[10]"], "embed: "),
        (["predict", "retina_masks=False"], "retina_masks: .*resolution of the original"),
        (["predict", "stream_buffer=False"], "stream_buffer: .*--vid-stride"),
        (["predict", "tracker=bytetrack.yaml"], "no tracking"),
        (["predict", "save_frames=True"], "save_frames: .*ffmpeg"),
        (["predict", "rect=True"], "--canvas exact"),
        (["predict", "save_json=True"], "coco.json"),
        (["predict", "int8=True"], "fp32, bf16 and fp16"),
        (["predict", "line_thickness=2"], "--line-width"),
        (["predict", "hide_labels=True"], "--no-show-labels"),
    ],
)
def test_what_ultralytics_has_and_brimful_has_not_is_answered(given, says):
    with pytest.raises(UsageError, match=says):
        normal(*given)


def test_every_option_of_ultralytics_predict_is_taken_or_answered():
    """The list is Ultralytics' own documentation of `predict`, by its default.yaml."""
    yaml = pytest.importorskip("ultralytics.cfg")
    every = yaml.DEFAULT_CFG_DICT
    text = yaml.DEFAULT_CFG_PATH.read_text(encoding="utf-8")
    sections = re.split(r"^# (.*?) -+$", text, flags=re.MULTILINE)
    named = dict(zip(sections[1::2], sections[2::2], strict=True))
    keys = [
        match[1]
        for title in ("Predict settings", "Visualize settings")
        for match in re.finditer(r"^(\w+):", named[title], re.MULTILINE)
    ]
    assert {"augment", "save_txt", "show", "classes"} <= set(keys) <= set(every)
    keys += ["task", "mode", "model", "imgsz", "batch", "device", "workers", "project", "name"]
    keys += ["exist_ok", "verbose", "conf", "iou", "max_det", "quantize", "half", "int8", "dnn"]
    keys += ["nms", "rect", "compile", "save", "save_json", "tracker"]
    known = set(known_options(root.commands["predict"]).split())
    for key in keys:
        option = key.replace("_", "-")
        assert f"--{option}" in known or option in ANSWERS or key == "mode", key
    assert not [name for name in ANSWERS if f"--{name}" in known], "an answer nobody gets"


@pytest.mark.parametrize(
    ("precision", "text", "expected"),
    [
        ("auto", None, "auto"),
        ("auto", "16", "fp16"),
        ("fp16", "fp16", "fp16"),
        ("auto", "32", "fp32"),
    ],
)
def test_quantize(precision, text, expected):
    assert quantized(precision, text) == expected
    for wrong, says in [("8", "16 or 32"), ("int8", "16 or 32")]:
        with pytest.raises(UsageError, match=says):
            quantized(precision, wrong)
    with pytest.raises(UsageError, match="differ"):
        quantized("bf16", "16")


def test_known_options():
    assert known_options(root) == "verbs: " + ", ".join(sorted(root.commands))
    line = known_options(root.commands["predict"])
    assert line.startswith("options of predict: ")
    assert {"--imgsz", "--max-det", "--source", "--half"} <= set(line.split())


@pytest.mark.parametrize(
    ("text", "failures", "images", "exceeded", "hopeless"),
    [
        (None, 0, 9, False, False),
        (None, 1, 9, True, False),
        ("0", 1, 9, True, True),
        ("2", 2, 9, False, False),
        ("2", 3, 9, True, True),
        ("5%", 5, 100, False, False),
        ("5%", 6, 100, True, False),
        ("100%", 9, 9, False, False),
        ("0%", 1, 9, True, False),
    ],
)
def test_failures(text, failures, images, exceeded, hopeless):
    limit = parse_failures(text)
    assert limit.exceeded(failures, images) is exceeded
    assert limit.hopeless(failures) is hopeless


@pytest.mark.parametrize("text", ["-1", "5.5", "x", "", "%", "101%", "-1%", "nan%", "inf"])
def test_failures_that_make_no_sense(text):
    with pytest.raises(UsageError, match="max-failures"):
        parse_failures(text)


def test_no_failures_is_the_default():
    assert parse_failures(None) == FailureLimit()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("640", 640),
        ("480,640", (480, 640)),
        ("[480, 640]", (480, 640)),
        ("480x640", (480, 640)),
    ],
)
def test_imgsz(text, expected):
    assert parse_imgsz(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-640", "640,", "1,2,3", "big", "480,0", "1.5"])
def test_imgsz_that_makes_no_sense(text):
    with pytest.raises(UsageError, match="imgsz"):
        parse_imgsz(text)


def test_names(tmp_path):
    assert parse_names(None) is None
    assert parse_names("bolt, nut") == ("bolt", "nut")
    assert parse_names("bolt") == ("bolt",)
    (tmp_path / "names.txt").write_text("bolt\n\n hex nut \n", encoding="utf-8")
    assert parse_names(str(tmp_path / "names.txt")) == ("bolt", "hex nut")
    with pytest.raises(UsageError, match="no name"):
        parse_names(" ,")
    # longer than any file name may be
    many = [f"class{i}" for i in range(300)]
    assert parse_names(",".join(many)) == tuple(many)
    assert parse_names("x" * 5000) == ("x" * 5000,)


LISTS = {
    "list.yaml": "path: ../coco\ntrain: images\nnames: [bolt, hex nut]\n",
    "lines.yaml": "# a comment\nnc: 2\nnames:\n- bolt\n- hex nut\n",
    "ids.yml": "names:\n  0: bolt\n  1: hex nut  # comment\n\ndownload: |\n  import os\n",
    "quoted.YAML": "names: {1: 'hex nut', 0: \"bolt\"}\n",
    "bom.yaml": "\ufeffnames: [bolt, hex nut]\n",
    "yaml.txt": "nc: 2\nnames: [bolt, hex nut]\n",
    "ids.json": '{"names": {"0": "bolt", "1": "hex nut"}}',
    "list.json": '{"names": ["bolt", "hex nut"]}',
    "lines.names": "bolt\nhex nut\n",
    "bom.txt": "\ufeffbolt\r\nhex nut\r\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_files_of_names(name, tmp_path):
    (tmp_path / name).write_text(LISTS[name], encoding="utf-8")
    assert parse_names(str(tmp_path / name)) == ("bolt", "hex nut")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.yaml",
            "train: images\nval: images\n",
            "expected the key 'names' .* found 'train', 'val'",
        ),
        ("a.yaml", "- bolt\n- nut\n", "expected the key 'names' .* found list"),
        ("a.yaml", "", "expected the key 'names'"),
        ("a.yaml", "names:\n", "expected the key 'names'"),
        ("a.yaml", "names: []\n", "'names' should be a list or a mapping"),
        ("a.yaml", "names: {0: bolt, 2: nut}\n", "numbered 0, 1, 2"),
        ("a.yaml", "names: 5\n", "'names' should be a list or a mapping"),
        ("a.yaml", "names: [bolt\n", "cannot be read as YAML"),
        ("a.yaml", "names: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", "[]", "expected the key 'names'"),
    ],
)
def test_files_without_names(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=rf"{name} .*{message}|{name}: .*{message}"):
        parse_names(str(tmp_path / name))


@pytest.mark.parametrize("name", ["data.yaml", "names.TXT", "coco.names"])
def test_a_file_of_names_that_is_not_there(name, tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        parse_names(str(tmp_path / name))


def test_yaml_without_its_library(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("names: [bolt]")
    monkeypatch.setattr("brimful.extras.installed", lambda name: name != "yaml")
    with pytest.raises(UsageError, match=r"pip install 'brimful\[openvino\]'"):
        parse_names(str(tmp_path / "a.yaml"))


def test_classes():
    assert parse_classes(None) is None
    assert parse_classes("0,2") == parse_classes("[0, 2]") == (0, 2)
    assert parse_classes("3") == (3,)
    assert parse_classes("['person', 0]") == parse_classes("person, 0") == ("person", 0)
    assert parse_classes("traffic light,-1") == ("traffic light", -1)
    for text in ("", "[]", ",", "''"):
        with pytest.raises(UsageError, match="classes"):
            parse_classes(text)


def test_switch():
    assert parse_switch(None, "--nms") is None
    assert parse_switch("True", "--nms") is True
    assert parse_switch("no", "--nms") is False
    with pytest.raises(UsageError, match="--nms 'maybe'"):
        parse_switch("maybe", "--nms")
