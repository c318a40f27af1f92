"""``pointsman run``: one model, or a configuration file, in the foreground."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from pointsman.cli.common import ClusterAddress, command_line, one_line
from pointsman.cli.console import console_lines
from pointsman.cli.foreground import Foreground, local_folder, with_other_port
from pointsman.cli.lines import Lines, reported
from pointsman.cli.options import Given, parse_json, parse_settings, takes_start_options
from pointsman.cli.runfile import DEFAULT_NAME, last_lines, run_config_file
from pointsman.exceptions import BackendStartError, ServeException

if TYPE_CHECKING:
    from pointsman.backends import TriedBackend
    from pointsman.client import Client
    from pointsman.running.files import Snapshot
    from pointsman.running.targets import Target
    from pointsman.running.trial import Found, Trial

NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"

TargetName = Annotated[
    str, typer.Argument(metavar="TARGET", help="module:Name, file.py[:Name] or a configuration file.")
]
Route = Annotated[str | None, typer.Option("--route", help="HTTP path. Default: /.", metavar="ROUTE")]
InitArgs = Annotated[list[str], typer.Option("--arg", help="An init argument, JSON; may be repeated.", metavar="JSON")]
Settings = Annotated[
    list[str], typer.Option("--set", help="A field of BackendConfig; may be repeated.", metavar="FIELD=VALUE")
]


class Wanted(NamedTuple):
    """What a command line says of a deployment.

    Attributes:
        route: None for handles only, or to keep what is there.
        args: init arguments.
        config: fields of BackendConfig.
    """

    target: Target
    route: str | None
    args: tuple[Any, ...]
    config: dict[str, Any]


@takes_start_options
def run(
    *,
    target: TargetName,
    route: Route = None,
    arg: InitArgs = [],  # noqa: B006 - typer copies it
    set_: Settings = [],  # noqa: B006 - typer copies it
    reload: Annotated[bool, typer.Option("--reload", help="Load the code anew when its files are saved.")] = False,
    local: Annotated[
        bool, typer.Option("--local", help="In this process alone, for breakpoint(); without replicas.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the instance. Default: the file's, or default.", metavar="NAME")
    ] = None,
    address: ClusterAddress = None,
    given: Given,
) -> None:
    """Start an instance that serves a model, or what a configuration file says, until Ctrl-C."""
    from pointsman.running.targets import is_config_file

    if reload and local:
        raise typer.BadParameter("--reload and --local exclude each other")
    lines = Lines(given.start.get("log_format", "text"))
    if reload:
        prepare_reload(lines)
    if is_config_file(target):
        if local or arg or set_ or route is not None:
            raise typer.BadParameter(f"--local, --route, --arg and --set say nothing of {target!r}")
        run_config_file(target, name=name, address=address, given=given, reload=reload)
        return
    name, route = name or DEFAULT_NAME, "/" if route is None else route
    with reported(lines), exit_codes(lines):
        wanted = read_wanted(target, route, arg, set_)
        if local:
            from pointsman.running.local import serve_here

            try:
                serve_here(
                    wanted.target,
                    wanted.args,
                    wanted.config,
                    route=route,
                    http=given.http,
                    log_format=given.start.get("log_format", "text"),
                    say=typer.echo,
                )
            except OSError as error:
                raise with_other_port(error, given) from None
        else:
            _serve(wanted, name, address, given, lines, reload=reload)


def read_wanted(target: str, route: str | None, args: list[str], settings: list[str]) -> Wanted:
    """A deployment from the command line. Nothing is imported, and nothing changes.

    Raises:
        TargetError, typer.BadParameter: a part of it is wrong.
    """
    from pointsman.arguments import check_route
    from pointsman.config import config_changes
    from pointsman.running.targets import parse_target
    from pointsman.usercode.paths import working_folder

    found = parse_target(target, Path(working_folder()))
    config = parse_settings(settings, "--set")
    try:
        check_route(route)
        config_changes(config, "--set")
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    return Wanted(found, route, tuple(parse_json(text, "--arg") for text in args), config)


@contextmanager
def exit_codes(lines: Lines) -> Iterator[None]:
    """In the body, a wrong target ends the command with 2, and code that fails with 1 and the user's traceback."""
    from pointsman.running.targets import TargetError
    from pointsman.running.tracebacks import remote_traceback
    from pointsman.running.trial import CodeError

    try:
        yield
    except TargetError as error:
        lines.fail(str(error))
        raise typer.Exit(2) from None
    except CodeError as error:
        lines.fail(str(error).splitlines()[-1], traceback=str(error))  # a traceback ends with the error
        raise typer.Exit(1) from None
    except BackendStartError as error:
        lines.fail(one_line(error), traceback=remote_traceback(error))
        raise typer.Exit(1) from None


def _serve(wanted: Wanted, name: str, address: str | None, given: Given, lines: Lines, *, reload: bool) -> None:
    from pointsman.running.files import snapshot
    from pointsman.running.trial import Trial

    seen: Snapshot = {}
    if reload:
        seen = snapshot(wanted.target.folder)
        # A new version that is bad shows at once, and the next save mends it.
        wanted = wanted._replace(config={"rollout_watch_s": 0, **wanted.config})
    with Foreground(lines) as front:
        # It imports while the instance starts. What it prints the replicas print, too: a collector gets that once.
        trial = Trial(wanted.target, wanted.args, stays=reload, quiet=lines.is_json)
        try:
            client = front.start(name, given, address=address, quiet_starts=True, ready_when_told=True)
            with front.stopped_by_signals(client, name, address, runs=True):
                found = trial.result()
                client.deploy(found.name, found.code(), *wanted.args, route=wanted.route, config=wanted.config)
                status = command_line("status", name, address)
                page = console_lines(client, name, address)
                front.is_up(client, _lines(client, found, wanted, given, page, status, reload=reload), told=True)
                if reload:
                    _Reloading(client, trial, found.name, wanted, lines).start(seen)
                else:
                    trial.close()
                front.wait_until_ended(client, local_folder(name, given))
        finally:
            trial.close()


def prepare_reload(lines: Lines) -> None:
    """Check that files can be watched, and keep Python from loading old code."""
    from pointsman.running.reload import import_watchfiles

    try:
        import_watchfiles()
    except ServeException as error:
        lines.fail(str(error))
        raise typer.Exit(2) from None
    # Python takes compiled code for that of a file which was saved in the same second, with the same size.
    os.environ[NO_BYTECODE] = "1"
    sys.dont_write_bytecode = True


def _lines(
    client: Client, found: Found, wanted: Wanted, given: Given, page: Iterator[str], status: str, *, reload: bool
) -> Iterator[str]:
    from pointsman.running.example import Served, served_lines

    served = [Served(found.name, wanted.route or "", found.traits.api)]
    yield from served_lines(client.http_address, served, http=given.http, key="api_keys" in given.start)
    yield from page
    yield from last_lines(status, reload=reload)


class _Reloading:
    """Deploys the code anew when its files are saved, on a thread of its own.

    Args:
        name: of the deployment, whatever the object is called later.
        lines: print what comes of it.
    """

    def __init__(self, client: Client, trial: Trial, name: str, wanted: Wanted, lines: Lines) -> None:
        self._client, self._trial, self._name, self._wanted = client, trial, name, wanted
        self._say = partial(lines.say, err=True)

    def start(self, seen: Snapshot) -> None:
        threading.Thread(target=self._main, args=(seen,), name="pointsman-reload", daemon=True).start()

    def _main(self, seen: Snapshot) -> None:
        from pointsman.running.files import snapshot
        from pointsman.running.reload import follow, watch

        folder = self._wanted.target.folder
        follow(lambda: snapshot(folder), seen, watch([folder], threading.Event()), self._load)

    def _load(self) -> None:
        """Try the new code, and put it in place; a bad one is told of, and changes nothing."""
        from pointsman.running.files import snapshot
        from pointsman.running.targets import TargetError
        from pointsman.running.tracebacks import remote_traceback
        from pointsman.running.trial import CodeError, Superseded
        from pointsman.usercode.content import content_digest

        began, folder = time.monotonic(), self._wanted.target.folder
        seen = snapshot(folder)

        def changed() -> bool:
            return snapshot(folder) != seen

        try:
            # Import and constructor may wait for something: both are given up when the next save comes.
            code = self._trial.again(changed).code()
            # Any file counts, also one that is imported within a call, which no trial sees.
            code.content = content_digest({path: path for path in snapshot(folder)})
            self._deploy(code, changed)
        except Superseded:
            return
        except (TargetError, CodeError) as error:
            told = str(error)
        except (ServeException, ValueError, TypeError, TimeoutError) as error:
            told = remote_traceback(error) or str(error)
        else:
            self._say(f"Loaded anew in {time.monotonic() - began:.1f} s.")
            return
        if self._client._shut_down:
            return  # the command is ending
        self._say(f"{told}\n{self._wanted.target.shown} was not loaded: what was loaded before goes on.")

    def _deploy(self, code: TriedBackend, changed: Callable[[], bool]) -> None:
        """Deploy; a later deploy replaces one that is given up.

        Raises:
            Superseded: ``changed`` has said so.
            Exception: as ``Client.deploy``.
        """
        from pointsman.running.trial import LOOK_S, Superseded

        ended: Future[None] = Future()

        def work() -> None:
            try:
                self._client.deploy(self._name, code, *self._wanted.args)
            except BaseException as error:  # noqa: BLE001 - raised below, unless nobody waits any more
                ended.set_exception(error)
            else:
                ended.set_result(None)

        threading.Thread(target=work, name="pointsman-reload-deploy", daemon=True).start()
        while not wait([ended], LOOK_S).done:
            if changed():
                raise Superseded
        ended.result()
