"""Calls of apps: what they are told beside the request, what follows them, and how their answers are read."""

from __future__ import annotations

import asyncio
from collections import deque

from pointsman.incoming import RequestHead
from pointsman.routing.call import Call, CallFuture, CallTarget
from pointsman.routing.reply import ReplyStream
from pointsman.routing.upward import Upward
from pointsman.wire.frames import Body
from pointsman.wire.messages import BODY, SOCKET, WHOLE, WINDOW, AppCallHead, AppPart


class AppCall(Call):
    """A call of an app.

    Args:
        app: what the app is told beside the request. It also says what follows behind the call.
        more: the other arguments of a :class:`Call`.
    """

    __slots__ = ("_refused_by", "app")

    def __init__(
        self,
        request: RequestHead,
        body: Body = b"",
        *,
        app: AppPart,
        deadline: float,
        future: CallFuture,
        shard_key: str | None = None,
        idempotent: bool = False,
        shadow: bool = False,
        timed: bool = False,
    ) -> None:
        super().__init__(
            request, body, deadline=deadline, future=future, shard_key=shard_key, idempotent=idempotent, shadow=shadow,
            timed=timed,
        )  # fmt: skip
        self.app = app
        self.is_socket = app.follows == SOCKET
        self.up = None if app.follows == WHOLE else Upward(keeps=app.follows == BODY)
        self._refused_by: list[object] = []

    def head(self, now: float) -> AppCallHead:
        self.sent_at = now
        budget_ms = max(1, int((self.deadline - now) * 1000))
        return AppCallHead(self.request, budget_ms, self.shadow, self.timed, self.app)

    def may_be_repeated(self) -> bool:
        if self.up is None:
            return self.idempotent
        return self.idempotent and self.app.follows == BODY and self.up.can_be_sent_again

    def has_no_place_at(self, remote: object) -> None:
        self._refused_by.append(remote)

    def was_refused_by(self, remote: object) -> bool:
        return remote in self._refused_by

    def copy_for(self, request: RequestHead, body: Body, future: CallFuture) -> Call:
        app = AppPart(self.app.root_path, self.app.http_version, self.app.scheme, self.app.server)
        return AppCall(
            request, body, app=app, deadline=self.deadline, future=future, shard_key=self.shard_key, shadow=True
        )


class ByteStream(ReplyStream):
    """The streamed answer of an app, or the messages of a WebSocket. Credit is in bytes.

    Attributes:
        end_head: the head of the END.
    """

    CREDIT_STEP = WINDOW // 4

    def __init__(self, remote: CallTarget, call_id: int) -> None:
        super().__init__(remote, call_id)
        self._heads: deque[bytes] = deque()
        self.end_head = b""

    async def __anext__(self) -> Body:
        return (await self.part())[1]

    async def part(self) -> tuple[bytes, Body]:
        """The next part with its head.

        Raises:
            StopAsyncIteration: there is none.
            StreamBroken: it broke off.
        """
        while not self._chunks:
            if self._end is not None:
                raise self._end
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        head, chunk = self._heads.popleft(), self._chunks.popleft()
        self._taken += len(chunk)
        if self._taken >= self.CREDIT_STEP:
            self._remote.grant_credit(self._call_id, self._taken)
            self._taken = 0
        return head, chunk

    def feed(self, chunk: Body, head: bytes = b"") -> None:
        if not self._ended:
            self._heads.append(head)
            super().feed(chunk, head)

    def finish(self, error: Exception | None = None, head: bytes = b"") -> None:
        if not self._ended:
            self.end_head = head
        super().finish(error, head)
