"""What the tests of pictures share: detections and clips made by hand."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from brimful.detections import Detections

NAMES = ("bolt", "nut", "washer", "gear", "bearing", "crack")


def found(height: int, width: int, boxes: list[list[float]], **fields: Any) -> Detections:
    """Return detections whose classes are 0, 1, 2 and so on, and confidences fall from 0.9."""
    values: dict[str, Any] = {
        "image": "a.png",
        "index": 0,
        "width": width,
        "height": height,
        "task": "detect",
        "names": NAMES,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "confidence": np.linspace(0.9, 0.4, len(boxes)).astype(np.float32),
        "class_id": (np.arange(len(boxes)) % len(NAMES)).astype(np.int32),
    }
    return Detections(**(values | fields))


def gray(height: int = 200, width: int = 300, level: int = 90) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_talkie(path: Path, *, codec: str = "aac", seconds: int = 2, start: int = 0) -> Path:
    """Write a video of 10 frames a second with a tone, both from `start` seconds on."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream(codec, rate=48000)
        for number in range(10 * seconds):
            picture = av.VideoFrame.from_ndarray(gray(64, 96, 20 * number % 256), format="bgr24")
            picture.pts, picture.time_base = number + 10 * start, Fraction(1, 10)
            container.mux(video.encode(picture))
        shape = {"fltp": np.float32, "s16": np.int16}[sound.format.name]
        for block in range(48 * seconds):
            wave = np.sin(np.arange(1000) / 20 + block) * (1 if shape is np.float32 else 9000)
            tone = av.AudioFrame.from_ndarray(
                wave.astype(shape)[None], format=sound.format.name, layout="mono"
            )
            tone.sample_rate, tone.pts = 48000, 1000 * block + 48000 * start
            tone.time_base = Fraction(1, 48000)
            container.mux(sound.encode(tone))
        container.mux(video.encode())
        container.mux(sound.encode())
    return path


def packets(path: Path, kind: str) -> list[tuple[bytes, float]]:
    """Return the packets of the first stream of a kind, with their times in seconds."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        if not streams:
            return []
        return [
            (bytes(packet), float(packet.pts * packet.time_base))
            for packet in container.demux(streams[0])
            if packet.size
        ]


def frames(path: Path) -> list[tuple[float, np.ndarray]]:
    """Return the frames of a video with their times in seconds, BGR."""
    with av.open(str(path)) as container:
        return [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="bgr24"))
            for frame in container.decode(video=0)
        ]
