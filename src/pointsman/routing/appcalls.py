"""Calls of apps: what they are told beside the request, and what follows them."""

from __future__ import annotations

from pointsman.incoming import RequestHead
from pointsman.routing.call import Call, CallFuture
from pointsman.routing.upward import Upward
from pointsman.wire.frames import Body
from pointsman.wire.messages import BODY, SOCKET, WHOLE, AppCallHead, AppPart


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
