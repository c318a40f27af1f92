"""ASGI apps in a replica: each request and each WebSocket is a call of the app, in a task on the replica's loop.

    a call -> an item with ways in and out -> app(scope, receive, send) -> frames

Requests are among the calls of the ledger, WebSockets are not: they may stay for days, so no order waits for them. A
caller that has gone is told to the app first; what does not end by itself is cancelled a moment later. Work of an app
behind a whole answer goes on, and only a drain waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any
from urllib.parse import unquote

from pointsman.context import UsedModels, call_scope
from pointsman.model import Reason
from pointsman.multiplexing.loader import any_loader
from pointsman.replica.conversation import Conversation
from pointsman.replica.flow import AppItem
from pointsman.replica.item import Item
from pointsman.replica.ledger import Ledger
from pointsman.replica.lifespan import App, Lifespan
from pointsman.replica.methods import Method
from pointsman.replica.models import Models
from pointsman.replica.sockets import BROKEN, RESTARTS, Socket
from pointsman.replica.tasks import CoroutineExecutor
from pointsman.replica.usercontext import UserContext
from pointsman.telemetry.logs import log_failure
from pointsman.wire.failures import describe_failure
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import SOCKET, AppCallHead, RefuseHead, pack
from pointsman.wire.stream import Stream

log = logging.getLogger("pointsman.replica")

GRACE_S = 0.25
"""How long an app may take to end by itself once it was told that its client has gone."""
GOODBYE_S = 1.0
"""How long before the limit of a drain WebSockets are closed, at most; also the most that their apps then get."""
NO_METHOD = Method("asgi", lambda: None, is_async=True, batches=False, takes_request=True)


class Apps:
    """Runs the app of a replica.

    Args:
        app: the user's ASGI app.
        ledger: is given requests and their outcomes.
        executor: runs requests; holds them while ``reconfigure`` runs.
        context: each call runs in a copy of it.
        models: has calls wait for the models that they name; None where the class has no loader.
    """

    def __init__(
        self,
        app: App,
        ledger: Ledger,
        executor: CoroutineExecutor,
        context: UserContext,
        models: Models | None = None,
    ) -> None:
        self._app = app
        self._ledger = ledger
        self._executor = executor
        self._context = context
        self._models = models
        self._loop = asyncio.get_running_loop()
        self._lifespan = Lifespan(app)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: dict[tuple[Stream, int], tuple[AppItem, Socket]] = {}
        self._idle = asyncio.Event()
        executor.runs(AppItem, self._run)

    @property
    def sockets(self) -> int:
        """WebSockets that are open, or about to be."""
        return len(self._sockets)

    @property
    def busy(self) -> bool:
        """Whether the app works on anything: a socket may get a message at any time. Thread-safe."""
        return bool(self._tasks)

    async def start(self) -> None:
        """Run the app's startup. Raises what the app has raised, if it said that it has failed."""
        await self._context.copy().run(self._loop.create_task, self._lifespan.start())

    async def close(self) -> None:
        """Run the app's shutdown."""
        await self._lifespan.stop()

    def admit(self, stream: Stream, frame: Frame, head: AppCallHead, *, max_sockets: int) -> None:
        """Take a call; a WebSocket is refused over ``max_sockets``."""
        assert head.app is not None
        if head.app.follows == SOCKET and self.sockets >= max_sockets:
            refusal = RefuseHead(Reason.QUEUE_FULL, self._ledger.load)
            stream.send(Kind.REFUSE, frame.call_id, pack(refusal))
            return
        item = AppItem(stream, frame.call_id, head, frame.body, head.app, NO_METHOD)
        begin = self._begin_socket if head.app.follows == SOCKET else self._begin
        if head.request.model_id or any_loader():
            item.models = UsedModels(head.request.model_id)
        if self._models is None or self._models.take(item):
            begin(item)
        else:
            self._models.wait(item, partial(begin, item), slot=head.app.follows != SOCKET)

    def _begin(self, item: AppItem) -> None:
        self._ledger.admit(item)
        item.task = self._executor.start_one(item)

    def _begin_socket(self, item: AppItem) -> None:
        socket = Socket(item, self._ledger)
        self._sockets[item.stream, item.call_id] = item, socket
        item.task = self._context.spawn(self._loop.create_task, self._run_socket(item, socket))
        self._keep(item.task)

    def receive(self, stream: Stream, frame: Frame) -> None:
        """A CHUNK or an END has come behind a call."""
        item = self._find(stream, frame.call_id)
        if item is not None and frame.kind == Kind.CHUNK:
            item.inbox.feed(frame.head, frame.body)
        elif item is not None:
            item.inbox.end(frame.head)

    def grant(self, stream: Stream, call_id: int, amount: int) -> None:
        """The reader of what this call sends has given credit."""
        item = self._find(stream, call_id)
        if item is not None:
            item.grant(amount)

    def cancel(self, item: Item) -> bool:
        """The caller of a request has gone; False where it is none of the app's."""
        if not isinstance(item, AppItem):
            return False
        item.over = True
        item.give_up_inner_calls()
        item.leave()
        task = item.task
        assert task is not None
        task.add_done_callback(lambda _: self._ledger.close(item))
        self._cancel_later(task)
        return True

    def cancel_socket(self, stream: Stream, call_id: int) -> bool:
        """The client of a WebSocket has gone; False where it is none."""
        found = self._sockets.get((stream, call_id))
        if found is None:
            return False
        self._lose(*found, over=True)
        return True

    def stream_lost(self, stream: Stream) -> None:
        """The connection of a router has gone."""
        for item, socket in [found for (known, _), found in self._sockets.items() if known is stream]:
            self._lose(item, socket, over=True)

    async def drained(self, limit_s: float | None) -> None:
        """Return when all has ended that was begun; WebSockets are closed shortly before ``limit_s`` seconds."""
        goodbye = None
        if limit_s is not None:
            goodbye = self._loop.call_later(limit_s - min(GOODBYE_S, limit_s / 4), self._close_sockets)
        while self._tasks:
            self._idle.clear()
            await self._idle.wait()
        if goodbye is not None:
            goodbye.cancel()

    def _close_sockets(self) -> None:
        for item, socket in list(self._sockets.values()):
            self._lose(item, socket, over=False)

    def _lose(self, item: AppItem, socket: Socket, *, over: bool) -> None:
        """A socket ends that its app has not closed. ``over``: nobody is left who could be told."""
        item.over = item.over or over
        item.give_up_inner_calls()
        if over:
            socket.lost()
        else:
            socket.lost(RESTARTS, "the replica is being replaced")
        if item.task is not None:
            self._cancel_later(item.task)

    def _cancel_later(self, task: asyncio.Task[None]) -> None:
        timer = self._loop.call_later(GRACE_S, task.cancel)
        task.add_done_callback(lambda _: timer.cancel())

    def _find(self, stream: Stream, call_id: int) -> AppItem | None:
        item = self._ledger.find(stream, call_id)
        if item is None and self._models is not None:
            item = self._models.find(stream, call_id)
        if isinstance(item, AppItem):
            return item
        found = self._sockets.get((stream, call_id))
        return None if found is None else found[0]

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()

    async def _run(self, item: Item) -> None:
        """Run one request."""
        assert isinstance(item, AppItem)
        item.task = task = item.task or asyncio.current_task()
        assert task is not None
        if not self._ledger.start(item):
            self._executor.ended(task)
            return
        self._tasks.add(task)  # hot: no `_keep`, whose callback is one more turn of the loop
        call_scope.set(item.scope())
        conversation = Conversation(item, self._ledger, lambda: self._answered(item, task))
        answer = conversation.answer
        try:
            await self._app(scope_of(item, self._lifespan.state), conversation.receive, conversation.send)
            answer.check_complete()
        except asyncio.CancelledError:
            answer.drop_head()
            self._ledger.fail_with(item, RuntimeError("the app was cancelled"))  # no effect where its caller has gone
            raise
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises belongs to its caller
            answer.drop_head()
            if answer.complete or item.over:
                self._ledger.metrics.loop.failed_late(item)
                _log_error("behind its answer", error)
            else:
                self._ledger.fail_with(item, error)
        finally:
            if not answer.complete:
                self._answered(item, task)
            self._ended(task)

    def _answered(self, item: AppItem, task: asyncio.Task[None]) -> None:
        """A request has ended, as far as its caller is concerned. Called before the answer leaves: a caller that has it
        finds the call counted."""
        self._ledger.metrics.loop.ran(item.began, 1)
        self._executor.ended(task)

    async def _run_socket(self, item: AppItem, socket: Socket) -> None:
        key = item.stream, item.call_id
        try:
            if not self._ledger.begins(item):
                return
            call_scope.set(item.scope())
            await self._app(scope_of(item, self._lifespan.state), socket.receive, socket.send)
            socket.returned()
        except asyncio.CancelledError:
            socket.close(BROKEN)
            raise
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises belongs to its caller
            if socket.accepted or socket.closed:
                if not socket.left:
                    _log_error("in a WebSocket", error)
                socket.close(BROKEN)
            else:
                self._ledger.fail_with(item, error)
        finally:
            self._sockets.pop(key, None)
            self._ledger.close(item)


def _log_error(where: str, error: BaseException) -> None:
    """Log what an app has raised where no caller gets it."""
    failure, _ = describe_failure(error, with_object=False)
    log_failure(log, f"the app raised an exception {where}", failure.traceback)


def scope_of(item: AppItem, state: dict[str, Any]) -> dict[str, Any]:
    """The ASGI scope of a call."""
    request, app = item.request, item.app
    path = request.path.decode("latin-1")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": app.http_version,
        "method": request.http_method,
        "scheme": app.scheme,
        "path": unquote(path) if "%" in path else path,
        "raw_path": request.path,
        "root_path": app.root_path,
        "query_string": request.query,
        "headers": list(request.headers),
        "client": request.client,
        "server": app.server,
        "state": state.copy(),
    }
    if app.follows == SOCKET:
        del scope["method"]
        offered = [value for name, value in request.headers if name == b"sec-websocket-protocol"]
        names = [name.strip() for value in offered for name in value.decode("latin-1").split(",")]
        extensions: dict[str, Any] = {"websocket.http.response": {}}
        scope |= {"type": "websocket", "subprotocols": [n for n in names if n], "extensions": extensions}
    return scope
