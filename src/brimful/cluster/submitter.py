"""Submitter: takes single images into a pool, on the threads of those that submit them."""

from __future__ import annotations

import time
from collections.abc import Hashable

import numpy as np

from brimful.cluster.dispatcher import Dispatcher
from brimful.cluster.feeding import too_large
from brimful.cluster.packing import in_memory, pack
from brimful.cluster.pool_request import PoolRequest
from brimful.cluster.shared_images import SharedImages
from brimful.engine.delivery import Delivery, DetectionsFuture
from brimful.engine.request import LinePolicy
from brimful.errors import QueueFullError
from brimful.sources.image import Payload, SourceImage
from brimful.spec import ModelSpec
from brimful.vision.heads.config import PostprocessConfig


class Submitter:
    """Packs submitted images, finds room for their pixels, and hands them to the dispatcher."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        shared: SharedImages,
        spec: ModelSpec,
        delivery: Delivery,
        *,
        queue: int,
    ) -> None:
        """Prepare.

        Args:
            dispatcher: Takes requests.
            shared: Takes pixels.
            spec: What the model is.
            delivery: Runs the callbacks of futures.
            queue: Requests that may wait, for messages.
        """
        self._dispatcher = dispatcher
        self._shared = shared
        self._spec = spec
        self._delivery = delivery
        self._queue = queue

    def request(
        self,
        key: str,
        client: Hashable,
        params: PostprocessConfig | None,
        *,
        priority: int,
        deadline_ms: float | None,
        line: LinePolicy,
    ) -> PoolRequest:
        """Return a request without its image; see `EnginePool.submit` for the arguments."""
        return PoolRequest(
            DetectionsFuture(self._delivery),
            pack(SourceImage(index=0, key=key, payload=""), None),
            client,
            hash(client),
            params=params,
            priority=int(priority),
            deadline=None if deadline_ms is None else time.monotonic() + deadline_ms / 1000,
            line=line,
        )

    def submit(self, request: PoolRequest, payload: Payload, *, wait: bool) -> None:
        """Take a request in.

        Args:
            request: The request.
            payload: Its image.
            wait: Wait while there is no room.

        Raises:
            QueueFullError: There is no room, and `wait` is False.
            EngineStoppedError: The pool was closed or drained, or no process is left.
        """
        if not self._admit(request, payload, wait=wait):
            self._refuse(request)

    def _admit(self, request: PoolRequest, payload: Payload, *, wait: bool) -> bool:
        """Take a request in; return False when there is no room for it."""
        block = None
        if in_memory(payload):
            payload = too_large(payload, self._shared) or payload
        if isinstance(payload, Exception):  # no process is needed to find that out
            request.settle(request.failed(self._spec, "image", str(payload)))
            return True
        if in_memory(payload):
            block = self._shared.put(
                ("client", request.source),
                payload,
                wanted=self._dispatcher.is_open,
                wait=wait,
                deadline=request.deadline,
            )
            if block is None:
                self._dispatcher.check_open()
                return False
        elif isinstance(payload, np.ndarray):
            payload = payload.copy()  # it is pickled later
        key = request.item[1]
        request.item = pack(SourceImage(index=0, key=key, payload=payload), block)
        try:
            admitted = self._dispatcher.submit(request, wait=wait)
        except BaseException:
            self._shared.free([request.item])
            raise
        if not admitted:
            self._shared.free([request.item])
        return admitted

    def _refuse(self, request: PoolRequest) -> None:
        """Say why a request was not taken in."""
        if request.deadline is not None and time.monotonic() >= request.deadline:
            text = "its deadline passed before there was room for it"
            request.settle(request.failed(self._spec, "deadline", text))
            return
        raise QueueFullError(
            f"{self._dispatcher.waiting()} images are waiting; {self._queue} may in all, with "
            f"{self._shared.size:,} bytes of pixels, {self._shared.used:,} of which are in use, "
            "and no client may take all of that room; try again later"
        )
