"""Ultralytics' command line: the order of its words, and its options that have another name here.

What brimful has under the same name needs no entry. What it has not is answered with what to use
instead; a value that asks for what happens in any case is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from brimful.errors import UsageError
from brimful.spec import TASKS

MODES = ("train", "val", "export", "track", "benchmark")
"""Ultralytics' modes beside `predict`."""

_OFF = ("false", "none", "0", "no", "off", "")
_ON = ("true", "1", "yes", "on")


@dataclass(frozen=True, slots=True)
class Answer:
    """What there is to say of an option of Ultralytics that is none here.

    Attributes:
        text: What to use instead.
        asks_nothing: Values, in lower case, that ask for what happens in any case.
    """

    text: str
    asks_nothing: tuple[str, ...] = _OFF


_NO_TRACKING = Answer("there is no tracking; rows of frames come in order, with their times")

ANSWERS: dict[str, Answer] = {
    "augment": Answer("there is no test-time augmentation; a larger model or imgsz finds more"),
    "visualize": Answer("feature maps are not drawn; --save draws detections"),
    "embed": Answer("there are no embeddings; use Ultralytics for them"),
    "retina-masks": Answer(
        "masks always have the resolution of the original image, as with retina_masks=True; leave "
        "it out",
        _ON,
    ),
    "stream-buffer": Answer(
        "every frame of a stream is run, in order, as with stream_buffer=True; leave it out, and "
        "take fewer frames with --vid-stride",
        _ON,
    ),
    "stream": Answer("results always come one by one, as with stream=True; leave it out", _ON),
    "save-frames": Answer(
        "--save writes videos; `ffmpeg -i clip.mp4 %06d.jpg` makes frames of one"
    ),
    "save-json": Answer("write COCO results with --output detections.coco.json"),
    "int8": Answer("precisions are fp32, bf16 and fp16: give --precision, or leave it out"),
    "dnn": Answer("--runtime chooses what runs an .onnx"),
    "rect": Answer("rect=True is --canvas exact, rect=False is --canvas square", ("none",)),
    "end2end": Answer("--nms false takes the NMS-free head of a .pt, --nms true the one with NMS"),
    "compile": Answer("there is nothing to compile by hand; --runtime chooses what runs the model"),
    "tracker": _NO_TRACKING,
    "persist": _NO_TRACKING,
    "data": Answer("class names come from the model, or from --names data.yaml", ("none", "")),
    "cfg": Answer("there is no file of options; give them on the command line", ("none", "")),
    "line-thickness": Answer("it is --line-width", ()),
    "hide-labels": Answer("it is --no-show-labels"),
    "hide-conf": Answer("it is --no-show-conf"),
    "boxes": Answer("it is --show-boxes", ()),
}
"""By the name of the option, without dashes in front."""


def answer_to(name: str, value: str | None) -> bool:
    """Tell whether an option of Ultralytics can be left out, because it asks for nothing.

    Args:
        name: Of an option that brimful does not have, without dashes in front.
        value: Its value; None for a flag.

    Returns:
        False also for what Ultralytics does not have either.

    Raises:
        UsageError: It asks for something; the message says what to use instead.
    """
    answer = ANSWERS.get(name)
    if answer is None:
        return False
    if ("true" if value is None else value.lower()) in answer.asks_nothing:
        return True
    raise UsageError(f"{name.replace('-', '_')}: {answer.text}")


def verb_first(arguments: list[str], verbs: tuple[str, ...]) -> list[str]:
    """Return arguments with brimful's verb in front and a task as an option.

    Ultralytics takes `detect predict`, `predict detect` and `mode=predict task=detect`.

    Args:
        arguments: Without the program's name.
        verbs: Of brimful.

    Raises:
        UsageError: It is a mode that brimful does not have.
    """
    words = arguments[:2]
    if words[:1] == ["predict"] and words[1:] and words[1] in TASKS:
        return ["predict", f"task={words[1]}", *arguments[2:]]
    if words and words[0] in TASKS:
        if words[1:] and (words[1] in verbs or words[1] in MODES):
            return verb_first([words[1], f"task={words[0]}", *arguments[2:]], verbs)
        arguments = [f"task={words[0]}", *arguments[1:]]
    if arguments and arguments[0] in MODES:
        check_mode(arguments[0])
    if not arguments or arguments[0].startswith("-") or "=" not in arguments[0]:
        return arguments
    mode = next((word for word in arguments if word.startswith("mode=")), None)
    if mode is None:
        return arguments
    check_mode(mode.removeprefix("mode="))
    return ["predict", *arguments]


def check_mode(mode: str) -> None:
    """Refuse a mode that is not `predict`.

    Raises:
        UsageError: It is another one.
    """
    if mode != "predict":
        raise UsageError(
            f"brimful predicts, and has no mode {mode!r}; `yolo {mode}` of Ultralytics does that, "
            "and `brimful predict` takes the model"
        )
