"""Classifiers as Ultralytics saves them: with torchvision's transforms, of which nothing runs."""

import functools

import numpy as np
import pytest
import torch
import torchvision.transforms as T

from brimful.errors import ModelError
from brimful.formats.json_record import plain
from brimful.models.checkpoint import load_checkpoint, read_network
from brimful.models.rebuild import Transform
from brimful.models.signature import SpecOverrides
from loading import load
from model_files import opened, saved, scratch
from oracles import asset

SIZE = 96


def saved_with(transforms, name, train_args=None):
    """Return a random classifier with transforms, as a trainer saves it."""
    held = torch.load(saved("yolov8n-cls.yaml"), weights_only=False)
    model = held["model"]
    if transforms is not None:
        model.transforms = transforms
    said = {"task": "classify", "imgsz": SIZE} if train_args is None else train_args
    path = scratch() / f"{name}.pt"
    torch.save({"model": model, "train_args": said}, path)
    return path


@functools.cache
def trained():
    from ultralytics.data.augment import classify_transforms

    return saved_with(classify_transforms(SIZE), "trained")


@pytest.mark.parametrize("trust", [False, True])
def test_what_a_trainer_saves_is_read(trust):
    loaded = load_checkpoint(trained(), nms=None, overrides=SpecOverrides(), trust=trust)
    assert (loaded.spec.task, loaded.spec.imgsz) == ("classify", (SIZE, SIZE))


def test_nothing_of_it_can_run():
    transforms = read_network(trained(), trust=False).transforms
    steps = [transforms, *transforms.transforms]
    assert [type(step) for step in steps] == [Transform] * 5
    assert not any(callable(step) for step in steps)
    assert transforms.transforms[0].label == "torchvision.transforms.transforms.Resize"
    assert transforms.transforms[0].interpolation == "bilinear"


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_it_sees_what_ultralytics_sees(runtime):
    """The shapes of the images make the crop count, and 224 gives other probabilities."""
    import cv2
    from ultralytics import YOLO

    images = [cv2.imread(str(asset(name))) for name in ("bus.jpg", "zidane.jpg")]
    images += [images[0][:200], images[1][::4, ::4]]
    reference = [YOLO(trained())(image, verbose=False)[0].probs for image in images]
    with load(trained(), runtime=runtime) as engine:
        ours = list(engine.predict(images))
    with load(trained(), runtime=runtime, imgsz=224) as engine:
        other = list(engine.predict(images))
    for own, far, ref in zip(ours, other, reference, strict=True):
        assert own.canvas == (SIZE, SIZE)
        assert np.allclose(own.probs, ref.data.numpy(), atol=2e-3)
        assert not np.allclose(far.probs, ref.data.numpy(), atol=2e-3)
        record = plain(own)
        assert record["top1"]["class_id"] == ref.top1
        assert record["top1"]["class_name"] == own.names[ref.top1]
        assert record["top1"]["confidence"] == record["probs"][ref.top1]


def test_the_size_of_the_training_goes_first():
    from ultralytics.data.augment import classify_transforms

    other = saved_with(classify_transforms(64), "other-size")
    assert opened(other).spec.imgsz == (SIZE, SIZE)
    silent = saved_with(classify_transforms((64, 32)), "silent", {"task": "classify"})
    assert opened(silent).spec.imgsz == (64, 32)
    none = saved_with(None, "no-transforms")
    assert opened(none).spec.imgsz == (SIZE, SIZE)


def test_the_size_of_the_training_of_a_detector(tmp_path):
    held = torch.load(saved("yolo26n.yaml"), weights_only=False)
    held["train_args"] = {"task": "detect", "imgsz": 416}
    torch.save(held, tmp_path / "detector.pt")
    assert opened(tmp_path / "detector.pt").spec.imgsz == (416, 416)


def compose(resize=SIZE, crop=SIZE, mode="bilinear", mean=0.0, std=1.0, extra=()):
    steps = [T.Resize(resize, interpolation=T.InterpolationMode(mode)), T.CenterCrop(crop), *extra]
    steps += [T.ToTensor(), T.Normalize(torch.tensor([mean] * 3), torch.tensor([std] * 3))]
    return T.Compose(steps)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (compose(crop=64), "a resize to .96, 96. and a crop of .64, 64."),
        (compose(mode="bicubic"), "a resize with interpolation"),
        (compose(mean=0.485), "a normalisation with mean"),
        (compose(std=0.25), "a normalisation with std"),
        (compose(resize=(SIZE, SIZE)), "a resize to .96, 96. that does not keep the aspect ratio"),
        (T.Compose([T.Resize(SIZE), T.ToTensor()]), "the steps Resize, ToTensor"),
        (T.Compose([T.ToTensor()]), "the steps ToTensor"),
    ],
)
def test_other_preprocessing_is_refused(transforms, message):
    path = saved_with(transforms, "other")
    for trust in (False, True):
        with pytest.raises(ModelError, match=rf"other\.pt: .*preprocesses images with {message}"):
            load_checkpoint(path, nms=None, overrides=SpecOverrides(), trust=trust)


@pytest.mark.parametrize("step", [T.Lambda(print), T.RandomHorizontalFlip(), T.ToPILImage()])
def test_other_steps_are_not_even_read(step):
    path = saved_with(compose(extra=[step]), "random")
    with pytest.raises(ModelError, match=r"checkpoint asks for .*, which no YOLO checkpoint needs"):
        opened(path)


@pytest.mark.parametrize("probs", [None, [], [np.nan, 0.5]])
def test_no_most_probable_class(probs):
    from brimful.detections import Detections

    values = None if probs is None else np.array(probs, np.float32)
    d = Detections(
        image="a", index=0, width=1, height=1, task="classify", names=("a", "b"), probs=values
    )
    assert plain(d)["top1"] is None
