"""The window, on a tkinter that is watched: there is no display where tests run."""

from __future__ import annotations

import sys
import types

import cv2
import numpy as np
import pytest

from brimful.detections import Detections
from brimful.errors import UsageError
from brimful.pictures import window as module
from brimful.pictures.style import DEFAULT
from brimful.pictures.window import Window, as_ppm, fitted


class FakeTk:
    """What a window uses of Tk, with a note of what was shown."""

    def __init__(self, *, className: str = "", fails: str = "") -> None:
        self.shown: list[tuple[str, np.ndarray]] = []
        self.closed = False
        self.picture: object = None
        self._title = ""

    def protocol(self, name, callback):
        self.on_close = callback

    def winfo_screenwidth(self):
        return 100

    def winfo_screenheight(self):
        return 50

    def title(self, text):
        self._title = text

    def update(self):
        data = np.frombuffer(self.picture, np.uint8)
        self.shown.append((self._title, cv2.imdecode(data, cv2.IMREAD_COLOR)))

    def destroy(self):
        self.closed = True


@pytest.fixture
def tk(monkeypatch):
    tkinter = types.ModuleType("tkinter")
    root = FakeTk()

    class Label:
        def __init__(self, parent, borderwidth):
            assert parent is root

        def pack(self):
            pass

        def configure(self, image):
            root.picture = image

    tkinter.Tk = lambda className: root
    tkinter.Label = Label
    tkinter.TclError = RuntimeError
    tkinter.PhotoImage = lambda data, format: data
    monkeypatch.setitem(sys.modules, "tkinter", tkinter)
    monkeypatch.setattr(module, "installed", lambda name: True)
    monkeypatch.setattr(module, "IMAGE_S", 0.0)
    root.module = tkinter
    return root


def found(key: str, original: object, **more) -> Detections:
    return Detections(
        image=key, index=0, width=80, height=40, task="detect", names=("x",),
        boxes=np.array([[10, 10, 40, 30]], np.float32), confidence=np.ones(1, np.float32),
        class_id=np.zeros(1, np.int32), original=original, **more,
    )  # fmt: skip


def test_results_are_shown_one_after_the_other(tk):
    image = np.full((40, 80, 3), (10, 20, 30), np.uint8)
    window = Window(DEFAULT)
    gone = found("gone.jpg", "/nowhere/x.jpg")
    bad = Detections(image="b", index=1, width=0, height=0, task="detect", names=("x",), error="e")
    window.write([found("a.jpg", image), gone, bad, found("clip", image, frame=7)])
    assert [title for title, _ in tk.shown] == ["a.jpg", "clip 7"]
    expected = found("a.jpg", image).plot()
    for _, picture in tk.shown:
        np.testing.assert_array_equal(picture, expected)
    tk.on_close()
    window.write([found("later", image)])
    window.close()
    assert len(tk.shown) == 2 and tk.closed


def test_what_is_larger_than_the_screen_is_made_smaller(tk):
    picture = np.zeros((400, 300, 3), np.uint8)
    assert fitted(picture, (90, 45)).shape == (45, 33, 3)
    assert fitted(picture[:10, :10], (90, 45)).shape == (10, 10, 3)
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(as_ppm(noise), np.uint8), 1), noise)


def test_no_display_and_no_tkinter_are_said(tk, monkeypatch):
    def refuse(className):
        raise RuntimeError("no display name and no $DISPLAY environment variable")

    tk.module.Tk = refuse
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(UsageError, match="there is no display; --save writes pictures"):
        Window(DEFAULT)
    monkeypatch.setenv("DISPLAY", ":5")
    with pytest.raises(UsageError, match=r"DISPLAY :5 is none \(no display"):
        Window(DEFAULT)
    monkeypatch.setattr(module, "installed", lambda name: False)
    with pytest.raises(UsageError, match="python3-tk"):
        Window(DEFAULT)
