"""One model behind HTTP in one process: user code on the main thread, so that ``breakpoint()`` works in it.

    sync code:  main thread: user code    a second thread: event loop with HTTP server, router, runtime
    async code: main thread: event loop with all of these, and user code

The same parts as of a real instance but for what is between processes: there are no replicas, no traffic policies and
no metrics.
"""

from __future__ import annotations

import asyncio
import os
import pdb
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from pointsman.client.locking import lock_settings
from pointsman.client.start import check_log_format, http_settings
from pointsman.config import config_spec, parse_http_options
from pointsman.engine.base import url
from pointsman.engine.listening import listen
from pointsman.ingress.__main__ import with_middlewares
from pointsman.ingress.server import HTTPServer
from pointsman.replica.outcomes import UserExit
from pointsman.running.example import Served, served_lines
from pointsman.running.targets import Target, TargetError, find_object, is_app
from pointsman.running.tracebacks import user_traceback
from pointsman.running.trial import CodeError, import_target
from pointsman.telemetry.logs import set_up
from pointsman.testing.client import World
from pointsman.testing.replicas import MemoryReplica, runs_on_loop
from pointsman.usercode.mounting import Mounted, asgi
from pointsman.wire.handover import HTTPSettings

METHODS = ("GET", "POST")
DRAIN_S = 20.0
#: Nobody waits for an answer so long, and who stands in a debugger is not to be interrupted.
NO_DEADLINE_S = 7 * 86400.0
INTERRUPTED = 130


class MainThread:
    """Stands in for the thread of sync user code: runs on the main thread what that one would run."""

    def __init__(self) -> None:
        self._given: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._main: Callable[[], None] | None = None
        self._done = threading.Event()

    def take(self, main: Callable[[], None]) -> MainThread:
        """Take the function to run."""
        self._main = main
        return self

    def start(self) -> None:
        self._given.put(self._main)

    def join(self) -> None:
        self._done.wait()

    def serve(self) -> None:
        """Run the function, once it is started, until it returns; return at once after :meth:`cancel`."""
        main = self._given.get()
        try:
            if main is not None:
                main()
        finally:
            self._done.set()

    def cancel(self) -> None:
        """There is nothing to run, or no longer."""
        self._given.put(None)


def serve_here(
    target: Target,
    args: tuple[Any, ...],
    config: Mapping[str, Any],
    *,
    route: str,
    http: Mapping[str, Any],
    log_format: str,
    say: Callable[[str], object],
) -> None:
    """Serve a target in this process until Ctrl-C or SIGTERM. Blocks the main thread.

    Args:
        args: init arguments.
        config: fields of BackendConfig; ``num_replicas`` means nothing here.
        http: fields of HTTPOptions that were given.
        log_format: ``text`` or ``json``.
        say: is given each line that says where it is.

    Raises:
        TargetError: the target names nothing that can be served.
        CodeError: the code cannot be imported, or its constructor failed.
        OSError: the port is in use.
        ValueError: an option is wrong, or means other processes.
    """
    settings = _plain_http(http)
    listener = listen(settings.host, settings.port)
    settings = msgspec.structs.replace(settings, port=listener.getsockname()[1])
    set_up(check_log_format(log_format), "local")
    sys.path.insert(0, target.folder)
    name, code = _load(target)
    here = MainThread()
    on_loop = runs_on_loop(code)
    threads: dict[str, Any] = {} if on_loop else {"make_thread": here.take}
    spec = config_spec(config)
    world = World(logs=True)
    replica = MemoryReplica(
        code, *args, config=spec.for_replica(), backend=name, failures=world.failures, travels=False, **threads
    )

    async def serve() -> None:
        await world.open(replica, spec, name, route, METHODS, settings)
        server = _server(world, listener, settings)
        stopping.set_server(server)
        address = url(settings.host, settings.port)
        for line in served_lines(address, [Served(name, route, replica.api)], http=http, key=False):
            say(line)
        say("All of it is in this process: breakpoint() works. Ctrl-C ends it, twice at once.")
        try:
            await server.serve()
        finally:
            await world.close()

    stopping = _Stopping(world)
    stopping.take_signals()
    _leave_ctrl_c_to_us()
    try:
        _run(serve(), world, here, on_loop=on_loop)
    except Exception as error:  # noqa: BLE001 - from the constructor, which is user code
        inner = error.error if isinstance(error, UserExit) else error
        raise CodeError(user_traceback(inner)) from None
    finally:
        listener.close()


def _plain_http(given: Mapping[str, Any]) -> HTTPSettings:
    """The HTTP options of the one server. Raises ValueError if one of them is wrong, or means other processes."""
    options = parse_http_options({"request_timeout_s": NO_DEADLINE_S, **given})
    lock = lock_settings(options, None)
    settings = http_settings(options, lock)
    if settings is None or not lock.is_open:
        raise ValueError("--local serves plain HTTP to this machine's own: leave out TLS, CORS, hosts and NoServer")
    return settings


def _server(world: World, listener: socket.socket, settings: HTTPSettings) -> HTTPServer:
    assert world.app is not None
    return HTTPServer(
        with_middlewares(world.app, settings),
        listener,
        drain_s=DRAIN_S,
        settings=settings,
        direct=None if settings.middlewares else world.app,
    )


def _leave_ctrl_c_to_us() -> None:
    """Keep pdb from taking Ctrl-C for itself, as it does when it is left by ``continue``."""

    def set_trace(*, header: str | None = None, **others: Any) -> None:
        debugger = pdb.Pdb(nosigint=True)
        if header is not None:
            debugger.message(header)
        debugger.set_trace(sys._getframe().f_back)

    pdb.set_trace = set_trace


def _load(target: Target) -> tuple[str, Any]:
    try:
        module = import_target(target)
    except TargetError:
        raise
    except BaseException as error:  # noqa: BLE001 - user code, which may also exit
        raise CodeError(user_traceback(error)) from None
    name, found = find_object(module, target)
    return name, asgi(found) if is_app(found) and not isinstance(found, Mounted) else found


def _run(work: Coroutine[Any, Any, None], world: World, here: MainThread, *, on_loop: bool) -> None:
    """Run the server: on the main thread, or beside it while that runs user code."""
    if on_loop:
        asyncio.set_event_loop(world.loop)
        world.loop.run_until_complete(work)
        return
    world.start()
    serving = asyncio.run_coroutine_threadsafe(work, world.loop)
    serving.add_done_callback(lambda _: here.cancel())
    here.serve()
    serving.result()
    world.stop()


class _Stopping:
    """The first signal stops the server in good order, the second ends the process.

    Signals are counted twice: by Python's handler on the main thread, which user code on the loop cannot hold up, and
    by the loop, to which Python writes a byte for each. A signal that comes in the moment in which the main thread lies
    down to wait does not wake it, so that its handler would be called with the next request.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._server: HTTPServer | None = None
        self._handled = self._told = 0
        self._asked = False

    def set_server(self, server: HTTPServer) -> None:
        """Called on the loop."""
        self._server = server
        self._world.loop.add_reader(self._read, self._note)

    def take_signals(self) -> None:
        self._read, self._written = socket.socketpair()
        for end in (self._read, self._written):
            end.setblocking(False)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, self._on_signal)
        signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)

    def _on_signal(self, *_: object) -> None:
        self._handled += 1
        self._stop(self._handled)

    def _note(self) -> None:
        numbers = self._read.recv(4096)  # of signals, those of others included
        self._told += sum(number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) for number in numbers)
        self._stop(self._told)

    def _stop(self, count: int) -> None:
        if count > 1 or self._server is None:
            os._exit(INTERRUPTED)
        if count and not self._asked:
            self._asked = True
            self._world.loop.call_soon_threadsafe(self._server.stop)
