"""What all operations of a client share: the connection, and how a change is made and waited for."""

from __future__ import annotations

import getpass
import logging
import os
import secrets
import sys
from pathlib import Path

from pointsman.context import replica_context
from pointsman.exceptions import ServeException
from pointsman.model import BackendSpec, Origin
from pointsman.progress import ProgressLine
from pointsman.session import Credentials, Session, session_for
from pointsman.usercode.paths import import_folders, working_folder
from pointsman.wire.commands import (
    Accepted,
    Await,
    BackendList,
    Change,
    Query,
    QueryBackends,
    QueryTraffic,
    Status,
    TrafficView,
)
from pointsman.wire.messages import unpack

log = logging.getLogger("pointsman")

START_TIMEOUT_S = 60.0


class Operations:
    """Base of the operations.

    Args:
        credentials: where the instance is, and as whom we come.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._shut_down = False
        self._session: Session = session_for(credentials)

    def _status(self) -> Status:
        self._check_alive()
        return unpack(self._session.command(Query(new_id())), Status)

    def _backends(self, tag: str | None = None) -> dict[str, BackendSpec]:
        """What backends are to be, whole: all, or one by its tag, which need not be there."""
        self._check_alive()
        return unpack(self._session.command(QueryBackends(new_id(), tag)), BackendList).specs

    def _traffic(self, endpoint: str) -> TrafficView:
        self._check_alive()
        return unpack(self._session.command(QueryTraffic(new_id(), endpoint)), TrafficView)

    def _change(self, command: Change, blob: bytes = b"", *, backend: str | None = None, gone: bool = False) -> None:
        """Have a change accepted, then wait until it is in effect."""
        self._check_alive()
        accepted = unpack(self._session.command(command, blob), Accepted)
        if accepted.note:
            log.warning("%s", accepted.note)
        timeout_s = None if backend is not None else START_TIMEOUT_S
        wait = Await(new_id(), accepted.version, backend, gone, timeout_s)
        with ProgressLine() as line:
            self._session.command(wait, progress=line.show)

    def _check_alive(self) -> None:
        if self._shut_down:
            raise ServeException("the client was shut down")


def origin_here() -> Origin:
    """This process's folder and import path."""
    return Origin(working_folder(), import_folders())


def new_id() -> str:
    """An id for a command, so that delivering it twice carries it out once."""
    return secrets.token_hex(8)


def author() -> str:
    """Who we are, for an endpoint's traffic history."""
    replica = replica_context()
    if replica is not None:
        return f"replica {replica.replica}"
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in many containers
        user = f"uid {os.getuid()}"
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return f"{user}, {program}, pid {os.getpid()}"
