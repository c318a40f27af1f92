"""``pointsman run FILE``: an instance in the foreground that is as a configuration file wants it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from pointsman.cli.common import command_line
from pointsman.cli.config import BAD_FILE, FAILED, REFUSED
from pointsman.cli.console import console_lines
from pointsman.cli.foreground import Foreground, local_folder
from pointsman.cli.lines import Lines, reported
from pointsman.cli.options import Given
from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from pointsman.client import Client
    from pointsman.configfile.checking import Config
    from pointsman.running.example import Served
    from pointsman.running.files import Snapshot

DEFAULT_NAME = "default"


def run_config_file(path: str, *, name: str | None, address: str | None, given: Given, reload: bool) -> None:
    """Serve what a configuration file says, until Ctrl-C. Options of the command line go before those of the file.

    Args:
        name: of the instance; None for that in the file, or else ``default``.
        reload: whether the file is applied again whenever it, or code below its folder, is saved.
    """
    from pointsman.configfile.checking import load

    lines = Lines(given.start.get("log_format", "text"))
    with reported(lines), _exit_codes(lines):
        config = load(path)
        seen = _look(path, config)
        options = config.instance_options()
        named, there = options.pop("name", None), options.pop("address", None)
        name, address = name or named or DEFAULT_NAME, address or there
        given = _over(given, options)
        lines = Lines(given.start.get("log_format", "text"))  # as the file says
        with reported(lines), Foreground(lines) as front, _exit_codes(lines):
            client = front.start(name, given, address=address, quiet_starts=True, ready_when_told=True)
            with front.stopped_by_signals(client, name, address, runs=True):
                _apply(client, config)
                status = command_line("status", name, address)
                page = console_lines(client, name, address)
                front.is_up(client, _lines(client, given, page, status, reload=reload), told=True)
                if reload:
                    _Following(client, path, config, lines).start(seen)
                front.wait_until_ended(client, local_folder(name, given))


def _over(given: Given, options: dict[str, Any]) -> Given:
    """Options of the command line, over those of a file."""
    http = {**options.pop("http_options", {}), **given.http}
    page = {**options.pop("console_options", {}), **given.start.get("console_options", {})}
    return Given(http, {**options, **given.start, **({"console_options": page} if page else {})})


def _apply(client: Client, config: Config) -> None:
    """Carry a file out. Its ``instance`` was for the start, and other options may have gone before it."""
    from pointsman.configfile.applying import apply_config

    apply_config(client, config._replace(section=config.section.model_copy(update={"instance": None})))


@contextmanager
def _exit_codes(lines: Lines) -> Iterator[None]:
    """In the body, a wrong file ends the command with 2, code that fails with 1, and what comes first with 4."""
    from pointsman.configfile.problems import BadFileError, CodeError, RefusedError, TakenBackError

    try:
        yield
    except (BadFileError, CodeError) as error:
        lines.fail(str(error), traceback=_traceback(error) or ("" if lines.is_json else str(error)))
        raise typer.Exit(BAD_FILE if isinstance(error, BadFileError) else FAILED) from None
    except RefusedError as error:
        lines.fail(str(error))
        raise typer.Exit(REFUSED) from None
    except TakenBackError as error:
        lines.fail(str(error), traceback=_traceback(error))
        raise typer.Exit(FAILED) from None


def _traceback(error: Exception) -> str:
    """The traceback of user code, if that is the reason, with what it is about; else empty."""
    from pointsman.configfile.problems import CodeError, TakenBackError
    from pointsman.running.tracebacks import from_users_line

    if isinstance(error, TakenBackError) and error.operation.traceback:
        return f"{error.operation.object}:\n{from_users_line(error.operation.traceback).rstrip()}"
    if isinstance(error, CodeError):
        told = dict.fromkeys(problem.traceback.rstrip() for problem in error.problems if problem.traceback)
        return "\n".join([*told, str(error)]) if told else ""
    return ""


def _lines(client: Client, given: Given, page: Iterator[str], status: str, *, reload: bool) -> Iterator[str]:
    from pointsman.running.example import served_lines

    yield from served_lines(client.http_address, list(_served(client)), http=given.http, key="api_keys" in given.start)
    yield from page
    yield from last_lines(status, reload=reload)


def last_lines(status: str, *, reload: bool) -> Iterator[str]:
    """What is said below the addresses; ``status`` is the command that shows the instance."""
    from pointsman.running.example import UNTIL_CTRL_C

    yield f"  Status:  {status}"
    if reload:
        yield "A saved file is loaded at once."
    yield UNTIL_CTRL_C


def _served(client: Client) -> Iterator[Served]:
    """The endpoints that have a route, each with what describes its backend with the largest weight."""
    from pointsman.model import ALL_METHODS
    from pointsman.running.example import Served

    backends = client._backends()
    for name, spec in sorted(client._status().endpoints.items()):
        if spec.route is not None:
            tag = max(spec.policy.weights, key=lambda one: spec.policy.weights[one])
            api = backends[tag].traits.api if tag in backends else b""
            yield Served(name, spec.route, api, () if spec.methods == (ALL_METHODS,) else spec.methods)


def _look(path: str, config: Config) -> Snapshot:
    """The configuration file and the code that it may name, as they are now."""
    from pointsman.running.files import snapshot, stamp

    found = stamp(path)
    files = {os.path.abspath(path): found} if found is not None else {}
    for folder in config.folders:
        files |= snapshot(folder)
    return files


class _Following:
    """Applies the file anew when it, or the code that it may name, is saved, on a thread of its own."""

    def __init__(self, client: Client, path: str, config: Config, lines: Lines) -> None:
        self._client, self._path, self._config = client, path, config
        self._say = partial(lines.say, err=True)

    def start(self, seen: Snapshot) -> None:
        threading.Thread(target=self._main, args=(seen,), name="pointsman-reload", daemon=True).start()

    def _main(self, seen: Snapshot) -> None:
        from pointsman.running.reload import follow, watch

        folders = list(dict.fromkeys([os.path.dirname(os.path.abspath(self._path)), *self._config.folders]))
        follow(lambda: _look(self._path, self._config), seen, watch(folders, threading.Event()), self._apply_again)

    def _apply_again(self) -> None:
        from pointsman.configfile.checking import load

        began = time.monotonic()
        try:
            _apply(self._client, load(self._path))
        except (ServeException, ValueError, TypeError, TimeoutError, OSError) as error:
            if not self._client._shut_down:
                told = _traceback(error) or str(error)
                self._say(f"{told}\n{self._path} was not applied: what was applied before goes on.")
        else:
            self._say(f"Applied anew in {time.monotonic() - began:.1f} s.")
