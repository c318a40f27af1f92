"""A client that acts for the user of the console: its commands carry that user's token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import get_args

import msgspec

from pointsman.calling.session import Credentials, Session, session_for
from pointsman.client.client import Client
from pointsman.engine.base import Address
from pointsman.model.tokens import Holder
from pointsman.wire.commands import AnyCommand, Change, Progress
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

    def command(
        self,
        command: AnyCommand,
        body: bytes = b"",
        *,
        progress: Callable[[Progress], None] | None = None,
        timeout_s: float | None = None,
    ) -> Body:
        """As :meth:`Session.command`."""
        if self._key and isinstance(command, _CHANGES):
            command = msgspec.structs.replace(command, id=self._id())
        return self._session.command(command, body, progress=progress, timeout_s=timeout_s, warrant=self._warrant)

    def _id(self) -> str:
        """Of the command: the same for the same token and key, and no other user can guess it."""
        return hashlib.sha256(f"{self._warrant.token}\n{self._key}".encode()).hexdigest()[:32]


_CHANGES: tuple[type[Command], ...] = get_args(Change)


class UserClient(Client):
    """A client whose commands carry the token of a user of the console.

    Args:
        credentials: of the console.
        address: of the instance, for what its status shows.
        token: of the user.
        if_version: the version of the object that the user has seen; None for any.
        key: the user's own id for the one change that is made; empty for none.
    """

    def __init__(
        self,
        credentials: Credentials,
        address: Address | None,
        token: str,
        *,
        if_version: int | None = None,
        key: str = "",
    ) -> None:
        super().__init__(credentials, address=address)
        warranted = WarrantedSession(session_for(credentials), Warrant(token, if_version), key)
        self._session = warranted  # type: ignore[assignment]  # what operations use of a session

    def holder(self) -> Holder:
        """Whose token it is.

        Raises:
            TokenError: nobody's.
        """
        return unpack(self._session.command(QueryHolder("holder")), Holder)
