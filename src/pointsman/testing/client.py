"""A client of one model, without processes: the HTTP app and the replica's runtime in this process, in milliseconds.

    client.post -> a thread with an event loop: IngressApp -> Router -> MemoryReplica -> user code

For users' own tests. The objects that are given are used as they are, and nothing is pickled: a test can look into
them, and exceptions of user code are those that it raised.
"""

from __future__ import annotations

import asyncio
import json as jsons
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from pointsman import config as options
from pointsman.arguments import check_methods, check_route
from pointsman.config import BackendConfig
from pointsman.context import memory_tags
from pointsman.forms import Files, encode_body, encode_query
from pointsman.ingress.app import IngressApp
from pointsman.ingress.asgi import BrokenAnswer
from pointsman.model import ALL_METHODS, PLAIN, BackendConfigSpec, Origin, Reason, RoutingTable
from pointsman.replica.failurelog import FailureLog
from pointsman.replica.item import Ending, Item
from pointsman.replica.outcomes import UserExit
from pointsman.routing.router import Router
from pointsman.testing.replicas import INSTANCE, MemoryReplica
from pointsman.testing.tables import table_of
from pointsman.testing.virtual_time import Events, VirtualTimeLoop
from pointsman.usercode.mounting import has_app
from pointsman.wire.handover import HTTPSettings

if TYPE_CHECKING:
    from starlette.datastructures import Headers

T = TypeVar("T")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
TIMEOUT_S = 300.0
MAX_BODY = 2**30
SETTINGS = HTTPSettings("testserver", 80, False, TIMEOUT_S, MAX_BODY, True, b"", Origin("", ()))


class TestResponse:
    """An answer.

    Attributes:
        status_code: its status.
        headers: looked up without regard to case.
        content: its whole body; a stream is collected.
        chunks: the parts in which a stream came.
    """

    __test__ = False  # for pytest: no class of tests

    def __init__(self, status_code: int, headers: list[tuple[bytes, bytes]], chunks: list[bytes]) -> None:
        from starlette.datastructures import Headers

        self.status_code = status_code
        self.headers: Headers = Headers(raw=headers)
        self.chunks = chunks
        self.content = b"".join(chunks)

    @property
    def text(self) -> str:
        """The body, decoded as UTF-8."""
        return self.content.decode()

    def json(self) -> Any:
        """The body, parsed as JSON.

        Raises:
            ValueError: it is no JSON.
        """
        return jsons.loads(self.content)

    def __repr__(self) -> str:
        return f"<TestResponse {self.status_code}>"


class TestClient:
    """Serves one model in this process, and sends it requests. Requests of several threads run at a time, and share
    batches.

    Args:
        model: a function or class, as ``create_backend`` takes it.
        init_args: positional arguments of the class's constructor; mocks, if you like.
        config: a :class:`BackendConfig` or a dict of its fields. ``num_replicas`` means nothing here.
        route: under which it is served.
        methods: HTTP methods of the route. Default: GET, POST, PUT, PATCH, DELETE.
        backend: the tag that ``get_current_backend_tag`` gives.
        headers: sent with each request.
        raise_server_exceptions: raise what user code raises, in place of a 500.

    Raises:
        TypeError, ValueError: an argument is wrong, or the code cannot be a backend.
        Exception: what the constructor raises.

    A context manager; without ``with`` call :meth:`close`, which calls the model's own ``close``.
    """

    __test__ = False  # for pytest: no class of tests

    def __init__(
        self,
        model: Any,
        *init_args: Any,
        config: BackendConfig | Mapping[str, Any] | None = None,
        route: str = "/",
        methods: Sequence[str] = METHODS,
        backend: str = "model",
        headers: Mapping[str, str] | None = None,
        raise_server_exceptions: bool = True,
    ) -> None:
        spec = options.config_spec(config)
        check_route(route)
        verbs = check_methods(list(methods), METHODS)
        if has_app(model):
            raise TypeError(
                "TestClient serves no ASGI app; test the app itself, with starlette.testclient.TestClient(app)"
            )
        self._headers = dict(headers or {})
        self._raises = raise_server_exceptions
        self._world = World()
        self._world.start()
        self._end = weakref.finalize(self, self._world.stop)
        try:
            replica = MemoryReplica(
                model,
                *init_args,
                config=spec.for_replica(),
                backend=backend,
                failures=self._world.failures,
                travels=False,
            )
            self._world.run(self._world.open(replica, spec, backend, route, tuple(verbs or METHODS)))
        except BaseException as error:  # noqa: BLE001 - the constructor is user code, and what it raises is raised
            self._end()
            raise (error.error if isinstance(error, UserExit) else error) from None

    def request(
        self,
        method: str,
        url: str = "/",
        *,
        json: Any = None,
        content: bytes | str | None = None,
        data: Mapping[str, Any] | None = None,
        files: Files | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> TestResponse:
        """Send a request.

        Args:
            method: HTTP method.
            url: a path, perhaps with a query string.
            json: the body, which is sent as JSON.
            content: the body as it is.
            data: fields of a form.
            files: files of a multipart form, by field, as httpx takes them.
            params: query parameters; a list has several of one name.
            headers: of this request, beside those of the client.

        Returns:
            The answer.

        Raises:
            Exception: what user code raises, unless ``raise_server_exceptions`` is off.
            ConnectionError: a streamed answer broke off.
        """
        body, kind = encode_body(json=json, content=content, data=data, files=files)
        sent = {**({"content-type": kind} if kind else {}), **self._headers, **(headers or {})}
        scope = _scope(method, url, params, sent, body)
        status, answered, chunks, error = self._world.run(self._world.request(scope, body))
        if error is not None and self._raises:
            raise error
        if chunks is None:
            raise ConnectionError("the answer broke off while it streamed")
        return TestResponse(status, answered, chunks)

    def get(self, url: str = "/", **options: Any) -> TestResponse:
        """The answer to a GET.

        Args:
            url, options: as for :meth:`request`.
        """
        return self.request("GET", url, **options)

    def post(self, url: str = "/", **options: Any) -> TestResponse:
        """The answer to a POST.

        Args:
            url, options: as for :meth:`request`.
        """
        return self.request("POST", url, **options)

    def put(self, url: str = "/", **options: Any) -> TestResponse:
        """The answer to a PUT.

        Args:
            url, options: as for :meth:`request`.
        """
        return self.request("PUT", url, **options)

    def patch(self, url: str = "/", **options: Any) -> TestResponse:
        """The answer to a PATCH.

        Args:
            url, options: as for :meth:`request`.
        """
        return self.request("PATCH", url, **options)

    def delete(self, url: str = "/", **options: Any) -> TestResponse:
        """The answer to a DELETE.

        Args:
            url, options: as for :meth:`request`.
        """
        return self.request("DELETE", url, **options)

    def close(self) -> None:
        """End what serves the model. The model's own ``close`` is called; what it raises is raised here."""
        if self._end.alive:
            try:
                self._world.run(self._world.close())
            finally:
                self._end()

    def __enter__(self) -> TestClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _scope(
    method: str, url: str, params: Mapping[str, Any] | None, headers: Mapping[str, str], body: bytes
) -> dict[str, Any]:
    parts = urlsplit(url)
    queries = [parts.query, encode_query(params)]
    lines = {"host": "testserver", **{name.lower(): value for name, value in headers.items()}}
    if body:
        lines["content-length"] = str(len(body))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": "http",
        "path": parts.path or "/",
        "raw_path": quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._").encode(),
        "query_string": "&".join(filter(None, queries)).encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in lines.items()],
        "client": ("testclient", 50000),
        "server": ("testserver", 80),
        "state": {},
    }


class _Failures(FailureLog):
    """Keeps what user code has raised, by the id of the request; or logs it, as a replica does."""

    def __init__(self, *, logs: bool) -> None:
        super().__init__()
        self.raised: dict[str, BaseException] = {}
        self._logs = logs

    def record(self, error: BaseException, items: Sequence[Item], endings: Sequence[Ending]) -> None:
        if self._logs:
            super().record(error, items, endings)
            return
        for item, ending in zip(items, endings, strict=True):
            if ending.failed and ending.failure is not None and ending.failure.reason is Reason.USER_CODE:
                self.raised[item.request.request_id] = error


class _Loop(VirtualTimeLoop):
    """Connects in memory, in real time: tests may stand in a debugger for as long as they like."""

    def time(self) -> float:
        return asyncio.SelectorEventLoop.time(self)

    def _pass_time(self, timeout: float | None, poll: Any) -> Events:
        events: Events = poll(timeout)
        return events


class World:
    """An event loop on which app, router and replica of one model live.

    Args:
        logs: whether exceptions of user code are logged. Otherwise they are kept, and :meth:`request` returns them.

    Attributes:
        loop: runs on a thread of its own once :meth:`start` was called.
        failures: what user code has raised.
        app: answers requests, once :meth:`open` is done.
    """

    def __init__(self, *, logs: bool = False) -> None:
        self.loop = _Loop()
        self.failures = _Failures(logs=logs)
        self.app: IngressApp | None = None

    def start(self) -> None:
        """Run the loop on a new thread."""
        threading.Thread(target=self._main, name="pointsman-test-client", daemon=True).start()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and return its result. Blocks."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)

    async def open(
        self,
        replica: MemoryReplica,
        spec: BackendConfigSpec,
        tag: str,
        route: str,
        methods: tuple[str, ...],
        settings: HTTPSettings = SETTINGS,
    ) -> None:
        """Start the replica, and serve it."""
        memory_tags.set((tag, f"{tag}#memory"))
        self._replica = replica
        await replica.__aenter__()
        if spec.user_config is not None:
            await self._replica.runtime.reconfigure(spec.user_config, timeout_s=TIMEOUT_S)
        self._router = Router(instance=INSTANCE)
        self.app = IngressApp(self._router, settings)
        self.app.apply(self._table(spec, tag, route, methods))

    def _table(self, spec: BackendConfigSpec, tag: str, route: str, methods: tuple[str, ...]) -> RoutingTable:
        table = table_of(
            1,
            {tag: [self._replica]},
            max_concurrent_queries=spec.query_limit,
            max_queued_queries=spec.max_queued_queries,
        )
        surface = self._replica.surface
        methods = methods if surface == PLAIN else (ALL_METHODS,)
        endpoint = msgspec.structs.replace(table.endpoints[tag], route=route, methods=methods, surface=surface)
        return msgspec.structs.replace(table, endpoints={tag: endpoint})

    async def request(
        self, scope: dict[str, Any], body: bytes
    ) -> tuple[int, list[tuple[bytes, bytes]], list[bytes] | None, BaseException | None]:
        """Have the app answer. The chunks are None if the answer broke off; the error is what user code raised."""
        status, headers, chunks = 0, [], []
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await asyncio.get_running_loop().create_future()  # the client stays
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message["headers"])
            elif message.get("body") and scope["method"] != "HEAD":
                chunks.append(bytes(message["body"]))

        whole = True
        try:
            assert self.app is not None
            await self.app(scope, receive, send)
        except BrokenAnswer:
            whole = False
        ids = [value.decode() for name, value in scope["headers"] if name == b"x-request-id"]
        error = self.failures.raised.pop(ids[-1], None) if ids else None
        return status, headers, chunks if whole else None, error

    async def close(self) -> None:
        runtime = self._replica.runtime
        try:
            await self._router.aclose()
            await runtime.drain()
            await runtime.close()
        finally:
            await self._replica.__aexit__(None, None, None)
            await runtime.release_code()
