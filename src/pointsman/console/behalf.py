"""A client that acts for the user of the console: its commands carry that user's token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, get_args

import msgspec

from pointsman.calling.session import Credentials, Session, session_for
from pointsman.client.client import Client
from pointsman.client.operations import new_id
from pointsman.exceptions import ForbiddenError
from pointsman.model import Autoscaling, BackendSpec, EndpointSpec, Pins
from pointsman.model.tokens import Holder
from pointsman.routing.chooser import Chooser
from pointsman.wire.commands import AnyCommand, Await, AwaitOperation, Change, Moves, Progress, QueryMoves
from pointsman.wire.frames import Body
from pointsman.wire.messages import Command, Warrant, unpack
from pointsman.wire.tokens import QueryHolder


class WarrantedSession:
    """A session as a client's operations use it, whose commands carry a warrant.

    Args:
        session: of this process with the instance.
        warrant: the user's token, and the version of the object that the user has seen.
        key: the user's own id for the one change that is made; the same one again changes nothing. Empty for none.
    """

    def __init__(self, session: Session, warrant: Warrant, key: str = "") -> None:
        self._session = session
        self._warrant = warrant
        self._key = key
        self._ids: dict[str, str] = {}

    def command(
        self,
        command: AnyCommand,
        body: bytes = b"",
        *,
        progress: Callable[[Progress], None] | None = None,
        timeout_s: float | None = None,
    ) -> Body:
        """As :meth:`Session.command`; a question has its answer soon, or none."""
        if isinstance(command, _CHANGES) and self._key:
            self._ids[command.id] = self._id()
            command = msgspec.structs.replace(command, id=self._ids[command.id])
        elif isinstance(command, AwaitOperation):  # of an apply, by the id that its sender gave it
            operation = self._ids.get(command.operation, command.operation)
            command = msgspec.structs.replace(command, operation=operation)
        elif not isinstance(command, (*_CHANGES, Await)):
            timeout_s = timeout_s or ANSWER_S
        return self._session.command(command, body, progress=progress, timeout_s=timeout_s, warrant=self._warrant)

    @property
    def is_linked(self) -> bool:
        """Whether there is a connection to a controller now."""
        return self._session.link is not None and self._session.link.is_up

    def _id(self) -> str:
        """Of the command: the same for the same token and key, and no other user can guess it."""
        return hashlib.sha256(f"{self._warrant.token}\n{self._key}".encode()).hexdigest()[:32]


_CHANGES: tuple[type[Command], ...] = get_args(Change)
ANSWER_S = 10.0
"""How long the controller may take to answer a question: one that was killed is back before that."""


class UserClient(Client):
    """A client whose commands carry the token of a user of the console. It imports no code of users.

    Args:
        credentials: of the console.
        token: of the user.
        if_version: the version of the object that the user has seen; None for any.
        key: the user's own id for the one change that is made; empty for none.
    """

    def __init__(self, credentials: Credentials, token: str, *, if_version: int | None = None, key: str = "") -> None:
        super().__init__(credentials)
        self.token = token
        self.if_version = if_version
        self.key = key
        self._warranted = WarrantedSession(session_for(credentials), Warrant(token, if_version), key)
        self._session = self._warranted  # type: ignore[assignment]  # what operations use of a session

    def holder(self) -> Holder:
        """Whose token it is.

        Raises:
            TokenError: nobody's.
        """
        return unpack(self._session.command(QueryHolder("holder")), Holder)

    def _explained(self, endpoint: EndpointSpec, pins: Pins, shard_key: str | None) -> dict[str, Any]:
        """As of any client, but a policy of the user's is not asked: what it would choose is not said."""
        plain = msgspec.structs.replace(endpoint, policy=msgspec.structs.replace(endpoint.policy, custom=None))
        found = Chooser(plain, pins).explain(shard_key)
        if endpoint.policy.custom is None or found["why"] == "pin":
            return found
        return {**found, "backend": None, "why": "policy", "numbers": {}}

    def _find_policy(self, changes: dict[str, Any], present: BackendSpec | None) -> None:
        """A policy that is in force already stays. Another one is code.

        Raises:
            ForbiddenError: it is another one.
        """
        new: Autoscaling | None = changes.get("autoscaling")
        if new is None or new.policy is None:
            return
        old = present.config.autoscaling if present is not None else None
        if old is None or old.policy is None or old.policy.path != new.policy.path:
            raise ForbiddenError(f"policy {new.policy.path!r} is code, which this call does not bring; use PUT /config")
        changes["autoscaling"] = msgspec.structs.replace(new, policy=old.policy)

    def moves(self) -> Moves:
        """What moves in the status by itself, and whether anything else in it has changed."""
        return unpack(self._session.command(QueryMoves(new_id())), Moves)

    @property
    def is_linked(self) -> bool:
        """Whether there is a connection to a controller now."""
        return self._warranted.is_linked
