"""The calls of the API as values, and how a path finds its call. Pure.

A name in a path is percent-encoded, so that it may hold any character, ``/`` included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from pointsman.arguments import nearest
from pointsman.console.problems import Problem
from pointsman.model.tokens import VIEW, Holder

if TYPE_CHECKING:
    from starlette.requests import Request

    from pointsman.console.behalf import UserClient

PREFIX = "/api/v1"
NAMES = re.compile(r"\{(\w+)\}")


class Query(NamedTuple):
    """A parameter behind the ``?``, with its JSON Schema."""

    name: str
    text: str
    schema: Mapping[str, Any]


class Ask(NamedTuple):
    """One call of a user, as its handler gets it.

    Attributes:
        client: acts for the user.
        holder: who that is.
        names: those in the path, such as ``endpoint``.
        query: parameters behind the ``?``.
        body: of the type that the call names; None if it has none.
        request: the HTTP request, for streams.
        read_only: whether the console refuses every change.
    """

    client: UserClient
    holder: Holder
    names: Mapping[str, str]
    query: Mapping[str, str]
    body: Any = None
    request: Request | None = None
    read_only: bool = False

    @property
    def endpoint(self) -> str:
        return self.names["endpoint"]

    @property
    def backend(self) -> str:
        return self.names["backend"]

    def number(self, name: str) -> float | None:
        """A parameter as a number; None if it is not given. Raises ValueError: it is none."""
        text = self.query.get(name)
        try:
            return float(text) if text is not None else None
        except ValueError:
            raise ValueError(f"{name} must be a number, not {text!r:.60}") from None

    def whole(self, name: str) -> int | None:
        """A parameter as a whole number; None if it is not given. Raises ValueError: it is none."""
        text = self.query.get(name)
        if text is None:
            return None
        if not re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
            raise ValueError(f"{name} must be a whole number, not {text!r:.60}")
        return int(text)


class Versioned(NamedTuple):
    """An answer whose object has a version, which becomes the ``ETag``."""

    value: Any
    version: int


class Text(NamedTuple):
    """An answer that is no JSON."""

    text: str
    media_type: str


class Call(NamedTuple):
    """One call.

    Attributes:
        method: of HTTP.
        path: below ``/api/v1``, with names as ``{endpoint}``.
        handler: a function of an :class:`Ask`, in a thread, whose result becomes JSON; or a coroutine function, on the
            loop, that returns a response.
        text: what it does, in one sentence.
        role: which it needs.
        body: the type of its JSON; None if it takes none.
        query: parameters behind the ``?``.
        answer: the JSON Schema of what it returns.
        is_change: whether it changes something; one that does may last.
        is_open: whether it asks for no token.
    """

    method: str
    path: str
    handler: Callable[[Ask], Any]
    text: str
    role: str = VIEW
    body: Any = None
    query: tuple[Query, ...] = ()
    answer: Mapping[str, Any] = {"type": "object"}
    is_change: bool = False
    is_open: bool = False

    @property
    def names(self) -> list[str]:
        """The names in its path."""
        return NAMES.findall(self.path)


class Table:
    """All calls.

    Args:
        calls: no two of the same method and path.
    """

    def __init__(self, calls: Iterable[Call]) -> None:
        self.calls = tuple(calls)
        self._by_path: dict[tuple[str, ...], dict[str, Call]] = {}
        for call in self.calls:
            self._by_path.setdefault(_form(call.path), {})[call.method] = call

    def find(self, method: str, raw_path: str) -> tuple[Call, dict[str, str]]:
        """The call for a method and a path below ``/api/v1``, and the names in the path.

        Raises:
            Problem: 404 for a path that there is not, 405 for a method that it has not, 400 for one that is no UTF-8.
        """
        try:
            segments = [unquote(part, errors="strict") for part in raw_path.split("/")[1:]]
        except UnicodeDecodeError:
            raise Problem(400, f"names in the path must be percent-encoded UTF-8, not {raw_path:.200}") from None
        for form, calls in self._by_path.items():
            if len(form) == len(segments) and all(f in ("", s) for f, s in zip(form, segments, strict=True)):
                call = calls.get("GET" if method == "HEAD" else method)
                if call is None:
                    allowed = ", ".join(sorted(calls))
                    raise Problem(405, f"{method} is not for {raw_path:.200}; it has {allowed}", {"allow": allowed})
                values = [s for f, s in zip(form, segments, strict=True) if not f]
                return call, dict(zip(call.names, values, strict=True))
        raise Problem(404, f"there is no {PREFIX}{raw_path:.200}; {PREFIX}/openapi.json lists what there is")


def check_query(call: Call, given: Iterable[str]) -> None:
    """Check the names of parameters. Raises ValueError: the call has no such one, or one is there twice."""
    seen = set()
    known = [one.name for one in call.query]
    for name in given:
        if name not in known:
            raise ValueError(f"there is no parameter {name!r:.60}{nearest(name, known) if known else ''}")
        if name in seen:
            raise ValueError(f"parameter {name!r} is there twice")
        seen.add(name)


def _form(path: str) -> tuple[str, ...]:
    """The segments of a path, empty where a name stands."""
    return tuple("" if NAMES.fullmatch(part) else part for part in path.split("/")[1:])
