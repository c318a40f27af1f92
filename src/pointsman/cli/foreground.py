"""An instance is started by a command. Of one that ends with its command also what stands around its start, and what
happens until its end:

    with Foreground(lines) as front:           the service manager's socket is taken, its variables are removed
        client = front.start(...)
        with front.stopped_by_signals(...):
            ...                                what is to be there before it is ready
            front.is_up(client, lines)         says so, to people and the service manager
            front.wait_until_ended(...)

SIGTERM ends it with 0, also before it is ready; Ctrl-C before it has started ends the command with 130.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pointsman.cli.common import command_line
from pointsman.cli.console import console_lines
from pointsman.cli.ending import report_kept_state
from pointsman.cli.lines import Lines
from pointsman.cli.process import Interrupted, let_signals_unwind
from pointsman.engine.manager import ServiceManager, take_listener
from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from pointsman.cli.options import Given
    from pointsman.client import Client
    from pointsman.engine.local.folder import InstanceFolder


class Foreground:
    """See the module.

    Args:
        lines: print what the command says.

    Attributes:
        lines: those.
        listener: the socket for HTTP that was handed over by a service manager; None without one.

    Raises:
        ValueError: what was handed over cannot be used.
    """

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.listener = take_listener(os.environ, os.getpid())
        self._manager = ServiceManager.of(os.environ)

    def __enter__(self) -> Foreground:
        self.lines.set_up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._manager.stopping()
            if isinstance(error, Interrupted) and error.signum == signal.SIGTERM:
                sys.exit(0)  # asked to end, and nothing is left of it

    def start(
        self, name: str, given: Given, *, address: str | None, quiet_starts: bool = False, ready_when_told: bool = False
    ) -> Client:
        """Start an instance that ends with this process. For the arguments see
        :func:`pointsman.client.start.start_named`.

        Raises:
            ServeException, OSError: as :func:`start_instance`.
            ValueError: a socket was handed over that is of no use to it.
        """
        client = start_instance(
            name,
            given._replace(http=self._http_options(given.http)),
            bound=True,
            address=address,
            quiet_starts=quiet_starts,
            json_lines=self.lines.is_json,
            listener=self.listener,
            ready_when_told=ready_when_told,
        )
        let_signals_unwind()  # again: Ray has put a handler of its own in the place of that of SIGTERM
        return client

    def _http_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """HTTP options; host and port are those of the socket that was handed over, if one was."""
        if self.listener is None:
            return given
        if given.get("location") == "NoServer":
            raise ValueError("a socket was handed over (LISTEN_FDS), and --http-location NoServer has no use for it")
        host, port = self.listener.getsockname()[:2]
        return {**given, "host": host, "port": port}

    @contextlib.contextmanager
    def stopped_by_signals(
        self, client: Client, name: str, address: str | None, *, runs: bool = False
    ) -> Iterator[None]:
        """In the body, a signal stops the instance and keeps its state; a second one hurries that. Other errors that
        leave the body stop it as well.

        Args:
            runs: it was started for what a ``run`` serves, so that the same command starts it again.
        """
        status = client._status()
        try:
            yield
        except KeyboardInterrupt:
            self._manager.stopping()
            self.lines.say("Stopping; Ctrl-C again hurries it.", err=True)
            with contextlib.suppress(KeyboardInterrupt):  # a second signal: the instance is released at once
                client.stop()
            client._after_end()
            if runs and not status.state_dir:
                self.lines.say(f"Instance {name!r} has stopped.")
            else:
                report_kept_state(name, status, address, detached=False, say=self.lines.say)
        except BaseException:
            client.stop()
            raise

    def is_up(self, client: Client, lines: Iterable[str], *, told: bool = False) -> None:
        """Say that the instance has come up, once it has.

        Args:
            lines: to print.
            told: it was started with ``ready_when_told``, and has come up now.
        """
        client._come_up(told=told)
        for line in lines:
            self.lines.say(line)
        self._manager.ready(f"Serving{f' at {client.http_address}' if client.http_address else ''}")

    def wait_until_ended(self, client: Client, folder: InstanceFolder | None) -> None:
        """Wait until another process ends the instance.

        Args:
            folder: the instance's folder; None on a Ray cluster.

        Raises:
            ServeException: its supervisor was killed.
        """
        client._wait_for_end()
        self._manager.stopping()
        killed = folder is not None and folder.path.exists()  # an instance that ends in order removes its folder
        client.stop()
        if killed:
            raise ServeException("the instance's supervisor was killed")
        self.lines.say("The instance was ended by another command or program.")


def start_instance(name: str, given: Given, *, bound: bool, address: str | None, **others: Any) -> Client:
    """Start a named instance.

    Args:
        others: further arguments of :func:`pointsman.client.start.start_named`.

    Raises:
        ServeException: one of that name runs.
        OSError: a port is in use; the text says by whom, as far as that is known, and how another is given.
    """
    from pointsman.client.listening import DEFAULT_CONSOLE_PORT
    from pointsman.client.start import start_named

    given = given._replace(start={"console_port": DEFAULT_CONSOLE_PORT, **given.start})
    folder = local_folder(name, given)
    if folder is not None and folder.is_alive():  # start() finds that too; its text is for Python
        raise ServeException(
            f"an instance named {name!r} is running; give this one another name with --name, or end that one with:"
            f" {command_line('stop', name)}"
        )
    try:
        return start_named(name, bound=bound, http_options=given.http, address=address, **given.start, **others)
    except OSError as error:
        raise with_other_port(error, given) from None


def with_other_port(error: OSError, given: Given) -> OSError:
    """An error whose text says how another port is given, if it is that a port is in use."""
    if error.errno != errno.EADDRINUSE:
        return error
    option = "--http-port"
    for name in ("metrics_export_port", "console_port"):
        port = given.start.get(name)
        if port and f"port {port}:" in str(error):
            option = f"--{name.replace('_', '-')}"
    return OSError(error.errno, f"{error.strerror}; take another port with {option}, 0 for any free one")


def local_folder(name: str, given: Given) -> InstanceFolder | None:
    """The folder of an instance on this machine; None of one on a Ray cluster."""
    from pointsman.engine.folder import check_name
    from pointsman.engine.local.folder import InstanceFolder

    check_name(name)
    return InstanceFolder.of(name) if given.start.get("engine", "local") == "local" else None


def announcement(client: Client, name: str, address: str | None) -> list[str]:
    """Lines that say that an instance is ready, and where."""
    at = f" at {client.http_address}" if client.http_address else ", without an HTTP server"
    lines = [f"Instance {name!r} is ready{at}."]
    if client.metrics_address:
        lines.append(f"Metrics are at {client.metrics_address}/metrics.")
    return [*lines, *console_lines(client, name, address, "The console is at")]
