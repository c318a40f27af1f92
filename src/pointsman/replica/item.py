"""One call inside a replica."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from typing import Any

from pointsman.replica.target import Method
from pointsman.request import Incoming
from pointsman.wire.messages import CODEC_HTTP, CallHead
from pointsman.wire.stream import Stream


class Item:
    """One call inside the replica. ``over`` is set once, by whoever ends it: answered, failed, or cancelled."""

    __slots__ = ("call_id", "credit", "deadline", "frame_body", "head", "method", "over", "stream", "task")

    def __init__(self, stream: Stream, call_id: int, head: CallHead, body: bytes, method: Method) -> None:
        self.stream = stream
        self.call_id = call_id
        self.head = head
        self.frame_body = body
        self.method = method
        self.deadline = time.monotonic() + head.budget_ms / 1000
        self.over = False
        self.task: asyncio.Task[None] | None = None
        self.credit: threading.Semaphore | asyncio.Semaphore | None = None

    def request(self) -> Any:
        """The request in the form that user code wants."""
        return self.method.request(self.incoming())

    def incoming(self) -> Incoming:
        """The call, unpacked. Unpickles the arguments of a handle call, so it runs where user code runs."""
        head = self.head
        data: Any = self.frame_body
        kwargs: dict[str, Any] | None = None
        if head.codec != CODEC_HTTP:
            data, kwargs = pickle.loads(self.frame_body)
        return Incoming(
            endpoint=head.endpoint,
            http_method=head.http_method,
            path=head.path,
            query=head.query,
            headers=head.headers,
            path_params=head.path_params,
            client=head.client,
            request_id=head.request_id,
            data=data,
            kwargs=kwargs,
        )
