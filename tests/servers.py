"""Real servers on loopback for the tests of addresses: HTTP with all its faults, and RTSP."""

from __future__ import annotations

import base64
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np

BOUNDARY = "frame"
LOGIN = "me:p%40ss"
"""As a URL has it; the password is `p@ss`."""


class HttpServer(ThreadingHTTPServer):
    """Serves what is put into `files`: the type and the content of each path, or a function.

    Attributes:
        files: By path.
        asked: Paths that were asked for, in order.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, tuple[str, bytes] | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        self.release = threading.Event()

    def url(self, path: str, login: str = "") -> str:
        return f"http://{login}{'@' if login else ''}127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        found = self.server.files.get(self.path)
        if found is None:
            self.send_error(404)
        elif callable(found):
            found(self)
        else:
            kind, content = found
            self.send_response(200)
            if kind:
                self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def http_server() -> Iterator[HttpServer]:
    server = HttpServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def redirecting(to: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", to)
        request.end_headers()

    return answer


def cut(content: bytes, announced: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """Announce more than is sent."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(announced))
        request.end_headers()
        request.wfile.write(content)

    return answer


def silent(start: bytes = b"") -> Callable[[BaseHTTPRequestHandler], None]:
    """Send a start, and then nothing for as long as the test lasts."""

    def answer(request) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(start)
        request.wfile.flush()
        request.server.release.wait(60)

    return answer


def endless(piece: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Send without an end, and without a length."""

    def answer(request) -> None:
        request.send_response(200)
        request.end_headers()
        while not request.server.release.is_set():
            request.wfile.write(piece)

    return answer


def protected(kind: str, content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Send it to those that have the password of LOGIN."""
    expected = "Basic " + base64.b64encode(b"me:p@ss").decode()

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Authorization") != expected:
            request.send_error(401)
            return
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.end_headers()
        request.wfile.write(content)

    return answer


def motion_jpeg(frames: Sequence[bytes]) -> Callable[[BaseHTTPRequestHandler], None]:
    """Send frames as cameras do, with a moment between them, and hang up."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        request.end_headers()
        for frame in frames:
            head = (
                f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(frame)}\r\n\r\n"
            )
            request.wfile.write(head.encode() + frame + b"\r\n")
            time.sleep(0.01)

    return answer


# RTSP (RFC 2326) with H.264 in RTP (RFC 6184), interleaved in the connection ----------------------


def h264(frames: Sequence[np.ndarray]) -> list[list[bytes]]:
    """Return the NAL units of each frame, every frame one that can be decoded by itself."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames[0].shape[:2]
    encoder.pix_fmt, encoder.framerate, encoder.time_base = "yuv420p", 25, Fraction(1, 25)
    encoder.options = {"tune": "zerolatency", "g": "1", "preset": "ultrafast"}
    packets = []
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return [
        [unit for unit in bytes(packet).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
        for packet in packets
    ]


class _RtspHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while line := self.rfile.readline().decode().split():
            headers = {}
            while header := self.rfile.readline().decode().strip():
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            method, url = line[:2]
            self.server.asked.append((method, url))
            answer = getattr(self, f"_{method.lower()}", lambda url: ("", ""))
            more, body = answer(url)
            self.wfile.write(
                f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\nSession: 1\r\n{more}"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            if method == "PLAY":
                self._send_frames()
                return

    def _options(self, url: str) -> tuple[str, str]:
        return "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""

    def _describe(self, url: str) -> tuple[str, str]:
        lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=test", "c=IN IP4 0.0.0.0", "t=0 0"]
        lines += ["m=video 0 RTP/AVP 96", "a=rtpmap:96 H264/90000"]
        lines += ["a=fmtp:96 packetization-mode=1", "a=control:track"]
        return "Content-Type: application/sdp\r\n", "".join(f"{line}\r\n" for line in lines)

    def _setup(self, url: str) -> tuple[str, str]:
        return "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", ""

    def _send_frames(self) -> None:
        sequence = 0
        for number, units in enumerate(self.server.frames):
            for place, unit in enumerate(units):
                last = 0x80 if place == len(units) - 1 else 0
                header = struct.pack(">BBHII", 0x80, last | 96, sequence, number * 3600, 7)
                packet = header + unit
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                sequence += 1
        self.wfile.flush()
        if self.server.hangs:
            self.server.release.wait(60)


@contextmanager
def rtsp_server(frames: Sequence[np.ndarray], *, hangs: bool = False):
    """Serve a stream that ends, or that says nothing more."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _RtspHandler)
    server.daemon_threads = True
    server.frames, server.hangs = h264(frames), hangs
    server.asked, server.release = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
