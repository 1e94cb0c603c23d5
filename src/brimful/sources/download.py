"""Downloads: an image over HTTP, within limits of size and time."""

from __future__ import annotations

import base64
import http.client
import time
import urllib.error
import urllib.parse
import urllib.request

from brimful.errors import ImageError
from brimful.sources.address import without_password

SILENCE_S = 10.0
"""Seconds that a server may say nothing."""

LONGEST_S = 120.0
"""Seconds that an image may take in all."""

_CHUNK = 1 << 16
_VIDEOS = (
    *("video/", "multipart/x-mixed-replace"),
    *("application/vnd.apple.mpegurl", "application/x-mpegurl", "application/dash+xml"),
)


def download(url: str, max_bytes: int) -> bytes | None:
    """Return the bytes that a URL stands for, None where the server says that it is a video.

    Redirections are followed, to HTTP only. Proxies are those of the environment.

    Args:
        url: With `http` or `https`.
        max_bytes: What is too large.

    Raises:
        ImageError: It cannot be had, or is too large; the message has no password.
    """
    shown = without_password(url)
    try:
        with _open(url) as response:
            kind = response.headers.get("Content-Type", "").lower()
            if kind.startswith(_VIDEOS):
                return None
            return _read(response, max_bytes, shown)
    except urllib.error.HTTPError as error:
        with error:
            reason = f"the server answered {error.code} {error.reason}"
        raise ImageError(f"{shown} cannot be fetched: {reason}") from None
    except urllib.error.URLError as error:
        reason = getattr(error.reason, "strerror", None) or str(error.reason)
        raise ImageError(f"{shown} cannot be fetched: {reason}") from None
    except TimeoutError:
        raise ImageError(
            f"{shown} cannot be fetched: the server said nothing for {SILENCE_S:.0f} s"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImageError(f"{shown} cannot be fetched: {error or type(error).__name__}") from None


def _open(url: str) -> http.client.HTTPResponse:
    opener = urllib.request.OpenerDirector()
    for handler in (  # no files, no FTP, wherever a server redirects to
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "brimful"), ("Accept", "*/*")]
    parts = urllib.parse.urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host, fragment="").geturl())
    if login:
        token = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    response: http.client.HTTPResponse = opener.open(request, timeout=SILENCE_S)
    return response


def _read(response: http.client.HTTPResponse, max_bytes: int, shown: str) -> bytes:
    announced = response.headers.get("Content-Length", "")
    size = int(announced) if announced.isdecimal() else None
    if size is not None and size > max_bytes:
        raise ImageError(f"{shown} has {size:,} bytes, more than max_bytes {max_bytes:,}")
    data = bytearray()
    end = time.monotonic() + LONGEST_S
    while chunk := response.read1(_CHUNK):
        data += chunk
        if len(data) > max_bytes:
            raise ImageError(f"{shown} has more bytes than max_bytes {max_bytes:,}")
        if time.monotonic() > end:
            raise ImageError(f"{shown} did not end within {LONGEST_S:.0f} s")
    if size is not None and len(data) < size:
        raise ImageError(f"{shown} broke off after {len(data):,} of {size:,} bytes")
    return bytes(data)
