"""The console's HTTP: the files of the page, and the API below ``/api/v1``. An ASGI app.

guard (whose request it is) -> table (which call) -> holder (whose token) -> body -> handler, in a thread -> JSON
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from pointsman.calling.session import Credentials
from pointsman.console.behalf import UserClient
from pointsman.console.bodies import read_body
from pointsman.console.files import PageFiles
from pointsman.console.guard import MAX_HEAD, ON_ANSWERS, Guard
from pointsman.console.loglines import LogTail
from pointsman.console.operations import WAIT_S, Lasting, Operations, Threads
from pointsman.console.problems import MEDIA_TYPE, Problem, problem_of
from pointsman.console.reads import missing
from pointsman.console.routes import all_calls
from pointsman.console.table import PREFIX, Ask, Call, Table, Text, Versioned, check_query
from pointsman.engine.instances import log_folders
from pointsman.exceptions import ForbiddenError, TokenError
from pointsman.model.tokens import VIEW, Holder, includes

log = logging.getLogger(__name__)

READERS = 8
"""Threads for reading; each waits for the controller most of the time."""
_VERSION = re.compile(r'(?:W/)?"([0-9]{1,18})"')
_KEY = re.compile(r"[!-~]{1,200}")


class Console:
    """The console of an instance.

    Args:
        credentials: with which it reads.
        hosts: names of this server beside those of the loopback.
        read_only: whether it refuses every change.
        wait_s: how long a request waits for its change.
        more: calls beside those of the table, such as of what is sampled here.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        hosts: tuple[str, ...] = (),
        read_only: bool = False,
        wait_s: float = WAIT_S,
        more: Iterable[Call] = (),
    ) -> None:
        self._credentials = credentials
        self._read_only = read_only
        self._guard = Guard(hosts)
        self._files = PageFiles()
        self._operations = Operations(wait_s)
        self._threads = Threads("read", READERS)
        self._table = Table(all_calls(self._operations, LogTail(self._log_folders), more))

    def _log_folders(self) -> dict[str, Path]:
        return log_folders(self._credentials.control_path)

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        """Answer a request, as ASGI has it."""
        if scope["type"] != "http":
            return

        async def guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                added = [(name, value) for name, value in ON_ANSWERS if name not in there]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        request = Request(scope, receive)
        response = await self.answer(request)
        await response(scope, receive, guarded)  # type: ignore[arg-type]

    async def answer(self, request: Request) -> ASGIApp:
        """The answer to a request; a problem is one, too."""
        try:
            return await self._answer(request)
        except Exception as error:  # each is answered, and what no client raises is logged
            problem = problem_of(error)
            if problem.status == 500:
                log.exception("%s %s", request.method, raw_path(request))
            body = msgspec.json.encode(problem.as_json())
            return Response(body, problem.status, problem.headers, MEDIA_TYPE)

    async def _answer(self, request: Request) -> ASGIApp:
        path = raw_path(request)
        if head_bytes(request) > MAX_HEAD:
            raise Problem(431, f"the head of the request is over {MAX_HEAD} bytes")
        is_api = path == PREFIX or path.startswith(f"{PREFIX}/")
        server = (request.scope.get("server") or ("",))[0] or ""
        refusal = self._guard.refusal(request.headers, server, is_page=not is_api)
        if refusal:
            raise Problem(403, refusal)
        if not is_api:
            return self._files.answer(request.method, path, request.headers)
        call, names = self._table.find(request.method, path.removeprefix(PREFIX))
        if call.is_open:
            client = self._client(request, call)
            return _json(call.handler(Ask(client, Holder("", VIEW), names, {}, request=request)))
        client, holder = await self._admitted(request, call)
        check_query(call, [name for name, _ in request.query_params.multi_items()])
        body = await read_body(request, call.body) if call.body is not None else None
        ask = Ask(client, holder, names, dict(request.query_params), body, request, self._read_only)
        if inspect.iscoroutinefunction(call.handler):
            response: ASGIApp = await call.handler(ask)
            return response
        if call.is_change:
            return await self._change(request, call, ask)
        return _json(await self._threads.run(lambda: handled(call, ask)))

    async def _admitted(self, request: Request, call: Call) -> tuple[UserClient, Holder]:
        """The client of whoever asks, and who that is.

        Raises:
            TokenError: nobody's token.
            ForbiddenError: the role does not include that, or no change is allowed here.
            Problem: a header that makes no sense.
        """
        client = self._client(request, call)
        if not client.token:
            raise TokenError("show a token, by the header 'Authorization: Bearer TOKEN'")
        holder = await self._threads.run(client.holder)
        if call.is_change and self._read_only:
            raise ForbiddenError("this console only reads: it was started with --console-read-only")
        if not includes(holder.role, call.role):
            raise ForbiddenError(f"token {holder.name!r} is for {holder.role}, and this needs {call.role}")
        return client, holder

    def _client(self, request: Request, call: Call) -> UserClient:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        if not call.is_change:
            return UserClient(self._credentials, token)
        key = request.headers.get("idempotency-key", "")
        if key and not _KEY.fullmatch(key):
            raise Problem(400, "Idempotency-Key must be 1-200 visible ASCII characters")
        return UserClient(self._credentials, token, if_version=seen_version(request), key=key)

    async def _change(self, request: Request, call: Call, ask: Ask) -> Response:
        if ask.client.key:
            asked = f"{request.method} {raw_path(request)}?{request.url.query}\n".encode() + msgspec.json.encode(
                ask.body
            )
            self._operations.check_key(ask.holder.name, ask.client.key, hashlib.sha256(asked).digest())
        return _json(await self._operations.run(lambda: handled(call, ask)))


def handled(call: Call, ask: Ask) -> Any:
    """What a handler returns.

    Raises:
        Problem: 404 if an object in the path does not exist.
        Exception: as the handler.
    """
    try:
        return call.handler(ask)
    except (ValueError, KeyError) as error:
        lost = missing(ask)
        if lost:
            raise Problem(404, lost) from error
        raise


def raw_path(request: Request) -> str:
    """The path as it was sent, percent-encoded."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.decode("latin-1")


def head_bytes(request: Request) -> int:
    """How long the head of a request is, without what separates its parts."""
    in_headers = sum(len(name) + len(value) for name, value in request.headers.raw)
    return len(raw_path(request)) + len(request.url.query) + in_headers


def seen_version(request: Request) -> int | None:
    """The version in ``If-Match``; None for any.

    Raises:
        Problem: it is none of ours.
    """
    given = request.headers.get("if-match", "*").strip()
    if given == "*":
        return None
    found = _VERSION.fullmatch(given)
    if found is None:
        raise Problem(400, f"If-Match must be the ETag of an earlier answer, such as '\"12\"', not {given[:60]!r}")
    return int(found[1])


def _json(result: Any) -> Response:
    """The answer with the result of a handler."""
    if isinstance(result, Text):
        return Response(result.text, media_type=result.media_type)
    status, headers = 200, {}
    if isinstance(result, Lasting):
        status, headers, result = 202, {"location": result.location}, result.as_json()
    elif isinstance(result, Versioned):
        headers, result = {"etag": f'"{result.version}"'}, result.value
    return Response(msgspec.json.encode(result), status, headers, "application/json")
