"""``pointsman logs``: the output of all processes of an instance, in order of time."""

from __future__ import annotations

import io
import os
import re
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pointsman.cli import completion
from pointsman.cli.common import ClusterAddress, Name, connect_to
from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from pointsman.engine.logfiles import Entry, LogFile, LogFolder

#: Folders with log files, and a function that says whether the instance still runs.
LogSource: TypeAlias = tuple[list[Path], Callable[[], bool]]
POLL_S = 0.2
#: ANSI colours of prefixes. Red is left out: it marks errors.
COLOURS = (32, 33, 34, 35, 36, 92, 94, 95, 96)
ERRORS = ("ERROR", "CRITICAL")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def logs(
    backend: Annotated[
        str | None,
        typer.Argument(
            help="Only what its replicas say.", metavar="[BACKEND]", autocompletion=completion.backend_names
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    request: Annotated[
        str | None, typer.Option("--request", help="Only what is about the request of this id.", metavar="ID")
    ] = None,
    replica: Annotated[
        str | None,
        typer.Option("--replica", help="Only what it says.", metavar="TAG", autocompletion=completion.replica_tags),
    ] = None,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", help="Begin with the last N.", metavar="N", min=0)
    ] = None,
    name: Name = "default",
    state_dir: Annotated[
        str | None, typer.Option("--state-dir", help="Of an instance that may have ended.", metavar="FOLDER")
    ] = None,
    address: ClusterAddress = None,
) -> None:
    """Show what the processes of an instance have logged and printed, in order of time."""
    from pointsman.engine.logfiles import LogFolder, allow_open_files
    from pointsman.usercode.paths import absolute

    if state_dir is not None and address is not None:
        raise ValueError("--state-dir and --address exclude each other: logs of a cluster are in Ray's log folder")
    if request == "":
        raise ValueError("--request is empty; give the id of a request")
    allow_open_files()
    if state_dir is not None:
        folders, is_alive = _find_stored(Path(absolute(state_dir, "--state-dir")))
    else:
        folders, is_alive = _find(name) if address is None else _find_here(name, address)
    folder = LogFolder(folders, _wanted(backend, replica))
    if not folder.files:
        live = partial(_live_backends, name, address) if state_dir is None else list
        _check_exists(backend, replica, LogFolder(folders, lambda file: bool(file.backend)), live)
    screen = Screen()
    try:
        screen.show(_of_request(folder.entries(to_the_end=not follow), request), last=lines)
        if follow:
            _follow(folder, request, screen, is_alive)
    except KeyboardInterrupt:
        pass  # Ctrl-C is how -f is left
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _find(name: str) -> LogSource:
    """The log folder of an instance of the local engine. Works without a live process, also if the instance was killed.

    Raises:
        ServeException: there is no instance of that name.
    """
    from pointsman.engine.local.folder import folder_named

    instance = folder_named(name)
    try:
        return [instance.logs()], instance.is_alive
    except (FileNotFoundError, ServeException):
        pass
    try:
        connect_to(name)  # raises with the names of the instances that run
        return [instance.logs()], instance.is_alive
    except FileNotFoundError:
        raise ServeException(
            f"no logs of {name!r} are on this machine; for those on a Ray cluster, give --address"
        ) from None
    except ServeException as error:
        raise ServeException(f"{error}; logs of one with stored state: pointsman logs --state-dir FOLDER") from None


def _find_stored(state_dir: Path) -> LogSource:
    """The log folder in an instance's ``state_dir``, which outlives the instance.

    Raises:
        ServeException: it has none.
    """
    from pointsman.engine.folder import logs_of
    from pointsman.engine.local.folder import InstanceFolder

    folder = logs_of("", str(state_dir))
    if not folder.is_dir():
        raise ServeException(
            f"no logs are in {state_dir}: it is not the state_dir of an instance that ran on this machine"
        )
    return [folder], InstanceFolder(state_dir).is_alive


def _find_here(name: str, address: str) -> LogSource:
    """Log folders on this machine of an instance on a Ray cluster; prints which nodes are on other machines.

    Raises:
        ServeException: there is no instance of that name, or none of its nodes is this machine.
    """
    from pointsman.engine.instances import find_instance, log_folders

    client = connect_to(name, address)
    here = log_folders(find_instance(name, "ray", address).control_path)
    nodes = [metrics["node"] for metrics in client.status()["metrics"]]
    elsewhere = [node for node in nodes if not node.startswith(tuple(here))] if here else nodes
    where = f"each node has its own logs, in Ray's log folder; other nodes of {name!r}: {', '.join(elsewhere) or '?'}"
    if not here:
        raise ServeException(f"no process of {name!r} has logged anything on this machine: {where}")
    if elsewhere:
        typer.echo(f"pointsman: only the logs of this machine are shown: {where}", err=True)
    return [*here.values()], lambda: any(folder.exists() for folder in here.values())


def _wanted(backend: str | None, replica: str | None) -> Callable[[LogFile], bool]:
    from pointsman.engine.lognames import name_of_backend

    of = name_of_backend(backend) if backend is not None else None
    return lambda file: of in (None, file.backend) and replica in (None, file.source)


def _check_exists(
    backend: str | None, replica: str | None, replicas: LogFolder, live_backends: Callable[[], list[str]]
) -> None:
    """Check that the backend or replica exists, for which no log file was found.

    Raises:
        ValueError: it does not; the text has the nearest name.
    """
    tags = [file.source for file in replicas.files]
    if backend is not None:
        live = live_backends()
        if backend not in live:
            known = {*live, *(tag.rpartition("#")[0] for tag in tags)}
            raise ValueError(f"no backend is named {backend!r}{_nearest(backend, known)}")
    if replica is not None:
        raise ValueError(f"no replica{f' of {backend!r}' if backend else ''} is {replica!r}{_nearest(replica, tags)}")


def _live_backends(name: str, address: str | None) -> list[str]:
    """Tags of the instance's backends; empty if the instance does not answer."""
    try:
        return list(connect_to(name, address).status()["backends"])
    except ServeException:
        return []


def _nearest(name: str, known: Collection[str]) -> str:
    from pointsman.arguments import nearest

    return nearest(name, sorted(known)).replace("; it has ", "; there is: ") if known else "; there is none yet"


def _of_request(entries: Iterable[Entry], request: str | None) -> Iterable[Entry]:
    return entries if request is None else (entry for entry in entries if entry.is_about(request))


def _follow(folder: LogFolder, request: str | None, screen: Screen, is_alive: Callable[[], bool]) -> None:
    """Show what comes until the instance has ended."""
    alive = True
    while alive:
        time.sleep(POLL_S)
        alive = is_alive()  # before the files are read, so that the last read has all that the instance wrote
        folder.scan()
        screen.show(_of_request(folder.entries(to_the_end=not alive), request))
    typer.echo("The instance has ended.", err=True)


class Screen:
    """Standard output: prefixes each line with its process, and colours it on a terminal."""

    def __init__(self) -> None:
        self._stream = sys.stdout
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="replace")
        self._is_terminal = self._stream.isatty()
        self._coloured = self._is_terminal and "NO_COLOR" not in os.environ

    def show(self, entries: Iterable[Entry], *, last: int | None = None) -> None:
        """Write all entries, or the ``last`` ones."""
        for entry in entries if last is None else deque(entries, last):
            self._write(entry)
        self._stream.flush()

    def _write(self, entry: Entry) -> None:
        prefix = f"[{entry.source}]"
        is_error = entry.head is not None and entry.head.level in ERRORS
        if self._coloured:
            prefix = f"\x1b[{COLOURS[zlib.crc32(prefix.encode()) % len(COLOURS)]}m{prefix}\x1b[0m"
        for number, line in enumerate(entry.lines):
            text = _CONTROL.sub(_escaped, line) if self._is_terminal else line
            if self._coloured and is_error and number == 0:
                text = f"\x1b[31m{text}\x1b[0m"
            is_json = entry.head is not None and not entry.head.goes_on
            self._stream.write(f"{text}\n" if is_json else f"{prefix} {text}\n")  # a JSON line has a field for it


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
