"""Has this release of Pointsman take over an instance that another one runs (PK6, decision 0104).

    the old one lends sockets, settings and locks
    this one is started beside it, on a copy of the state, and loads every backend      nothing has changed so far
    the old controller ends; ingresses and replicas serve on
    this one's controller goes on with the state itself, and all is ready again
    this one accepts, and is told to keep the instance; the old one drains and ends

Whatever fails before the last line is taken back: the new one is ended, and the old one goes on as before. It does so
by itself if this process dies.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import time
from typing import NamedTuple

import msgspec

from pointsman.client.heir import ANSWER_S, Heir, Lent, Tell, ask
from pointsman.engine.folder import check_name
from pointsman.engine.local.folder import InstanceFolder
from pointsman.engine.local.upgradelink import RunningBackend, UpgradeLink
from pointsman.exceptions import ServeException
from pointsman.version import VERSION
from pointsman.wire.frames import WireError
from pointsman.wire.handover import SupervisorOrder
from pointsman.wire.messages import unpack

log = logging.getLogger("pointsman")


class CannotUpgradeError(ValueError):
    """That instance can never be taken over, whatever is done. Nothing has changed."""


class Upgraded(NamedTuple):
    """What came of it.

    Attributes:
        before, after: the releases.
        seconds: how long it took until the new one served.
        failing: backends that fail in both.
        drain_s: how long requests may still run in the old one.
    """

    before: str
    after: str
    seconds: float
    failing: tuple[str, ...]
    drain_s: float


def upgrade(name: str, *, wait_s: float, tell: Tell = log.info, show: Tell = log.debug) -> Upgraded:
    """Take over the instance of that name.

    Args:
        wait_s: how long the new one may take to load all backends.
        tell: is told what happens, in a sentence each.
        show: is shown how far loading is, again and again.

    Raises:
        CannotUpgradeError: that instance can never be taken over.
        BusyError: it is being upgraded by another process.
        NoRoomError: there is no room for both.
        TakenBackError: this release could not come up.
        ServeException: no such instance runs here.
    """
    began = time.monotonic()
    named = InstanceFolder.of(check_name(name))
    if not named.is_alive():
        raise ServeException(f"no instance named {name!r} is running on this machine")
    link = _connect(named, name)
    with contextlib.ExitStack() as finally_:
        finally_.callback(link.close)
        lent = _begin(link)
        finally_.callback(lent.close)
        heir = Heir(lent, show=show, old=link)
        heir.prepare(lent.runs)
        tell(f"Instance {name!r} is taken over from release {lent.release} by release {VERSION}.")
        try:
            heir.start()
            heir.wait_until_up(wait_s)
            tell("All is ready; taking over.")
            ask(link, "yield", folder=str(heir.folder.path), drain_s=heir.drain_s)
            heir.take_over()
            heir.keep()
        except BaseException as error:
            heir.end()
            if heir.is_kept:
                log.warning("the last answer did not come, and the new release has the instance: %s", error)
            else:
                _resume(link)
                if isinstance(error, (ServeException, OSError, TimeoutError, WireError)):
                    raise heir.explained(error) from None
                raise
        heir.let_go()
    return Upgraded(lent.release, VERSION, time.monotonic() - began, heir.failing, heir.drain_s)


def _connect(named: InstanceFolder, name: str) -> UpgradeLink:
    about = named.about()
    try:
        return UpgradeLink.to(str(named.upgrade_socket))
    except OSError:
        pass
    release = f"release {about.release}" if about.release else "an older release"
    why = "it ends with the command or script that has started it, or has no --state-dir"
    if not about.release:
        why = "it runs a release that cannot hand over"
    raise CannotUpgradeError(
        f"instance {name!r} ({release}) cannot be taken over: {why}; stop it and start it again with this release,"
        " under a service manager by its restart, over which a socket unit keeps connections"
    )


def _begin(link: UpgradeLink) -> Lent:
    answer, descriptors = link.ask("begin", timeout_s=ANSWER_S)
    names = [str(name) for name in answer["names"]]
    release = str(answer["release"])
    try:
        order = unpack(base64.b64decode(answer["order"]), SupervisorOrder)
    except WireError as error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise CannotUpgradeError(f"release {VERSION} cannot read the settings of release {release}: {error}") from None
    lent = dict(zip(names, descriptors, strict=True))
    runs = msgspec.convert(answer["runs"], dict[str, RunningBackend])
    return Lent(order, release, str(answer["prefix"]), dict(answer["environ"]), runs, lent)


def _resume(link: UpgradeLink) -> None:
    """Have the old one go on as before. It does that as well when the link ends."""
    with contextlib.suppress(ServeException, TimeoutError):
        ask(link, "resume")
