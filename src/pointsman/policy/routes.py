"""Finds the endpoint of a path: exact routes and templates. Pure.

The controller uses it to refuse malformed and conflicting routes, ingresses to match requests.

A template is a route with braces: ``/x/{id}`` matches one non-empty segment, ``/files/{rest:path}`` matches the rest of
the path and must be last. A path is split into segments before percent-decoding, so ``%2F`` never adds a segment.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import unquote

T = TypeVar("T")

RESERVED_PREFIX = "/-/"
_RESERVED = "-"
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")

_LITERAL, _SEGMENT, _REST = 0, 1, 2


class Segment(NamedTuple):
    kind: int
    #: The literal text, or the parameter's name.
    text: str


class Template(NamedTuple):
    """A parsed route."""

    segments: tuple[Segment, ...]

    @property
    def is_exact(self) -> bool:
        return all(segment.kind == _LITERAL for segment in self.segments)

    @property
    def signature(self) -> tuple[tuple[int, str], ...]:
        """Two templates have the same signature exactly if they match the same paths."""
        return tuple((s.kind, s.text if s.kind == _LITERAL else "") for s in self.segments)

    @property
    def precedence(self) -> tuple[int, ...]:
        """Sort key: templates with more literal segments, from the left, come first."""
        return tuple(segment.kind for segment in self.segments)

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """The values of the parameters for the raw (still encoded) segments of a path; None if it does not match."""
        segments = self.segments
        if len(parts) != len(segments) and not (
            segments and segments[-1].kind == _REST and len(parts) >= len(segments)
        ):
            return None
        values: dict[str, str] = {}
        for position, (kind, text) in enumerate(segments):
            if kind == _REST:
                values[text] = "/".join(unquote(part) for part in parts[position:])
                return values
            value = unquote(parts[position])
            if kind == _LITERAL:
                if text not in (value, parts[position]):
                    return None
            elif not value:
                return None
            else:
                values[text] = value
        return values


def parse_route(route: str) -> Template:
    """Parse a route.

    Raises:
        ValueError: it does not start with ``/``, lies under ``/-/``, or its braces are malformed.
    """
    if not route.startswith("/"):
        raise ValueError(f"route {route!r} must start with '/'")
    if route.startswith(RESERVED_PREFIX):
        raise ValueError(f"route {route!r} lies under {RESERVED_PREFIX!r}, which is reserved for system paths")
    segments: list[Segment] = []
    names: set[str] = set()
    texts = route.split("/")[1:]
    for position, text in enumerate(texts):
        parameter = _PARAMETER.fullmatch(text)
        if parameter is None:
            if "{" in text or "}" in text:
                raise ValueError(
                    f"route {route!r} has a malformed segment {text!r}; a parameter fills a whole segment,"
                    " as in '/x/{id}' or '/files/{rest:path}'"
                )
            segments.append(Segment(_LITERAL, text))
            continue
        name = parameter[1]
        if name in names:
            raise ValueError(f"route {route!r} uses the parameter {name!r} twice")
        if parameter[2] and position != len(texts) - 1:
            raise ValueError(f"route {route!r} has a ':path' parameter before its end; it must stand last")
        names.add(name)
        segments.append(Segment(_REST if parameter[2] else _SEGMENT, name))
    return Template(tuple(segments))


def matches_same_paths(route: str, other: str) -> bool:
    """True if two well-formed routes match the same paths: if they differ in nothing but the names of parameters."""
    if route == other:
        return True
    return "{" in route and "{" in other and anonymous(route) == anonymous(other)


@lru_cache(maxsize=4096)
def anonymous(route: str) -> str:
    """A well-formed route without the names of its parameters: alike for routes that match the same paths."""
    return _PARAMETER.sub(r"{\2}", route)


def prefix_of(route: str) -> str:
    """The prefix by which an app's route takes paths, without a slash at its end.

    Raises:
        ValueError: it has parameters.
    """
    if not parse_route(route).is_exact:
        raise ValueError(f"route {route!r} of an ASGI app must be a prefix without parameters, such as '/app'")
    return route.rstrip("/")


class RouteMatcher(Generic[T]):
    """Finds the route that matches a path: exact routes first, then templates, then the longest prefix.

    Args:
        routes: pairs of a route and its target.
        prefixes: such pairs of routes that take all paths below them, too.
    """

    def __init__(self, routes: Iterable[tuple[str, T]] = (), prefixes: Iterable[tuple[str, T]] = ()) -> None:
        self._exact: dict[str, T] = {}
        self._templates: list[tuple[Template, T]] = []
        self._precedences: list[tuple[int, ...]] = []  # of the templates, which are sorted by it
        self._prefixes: list[tuple[list[str], T]] = []  # the longest first
        for route, target in routes:
            self.add(route, target)
        for route, target in prefixes:
            self.add(route, target, prefix=True)

    def add(self, route: str, target: T, *, prefix: bool = False) -> None:
        """Add a route; no other that matches the same paths may be there."""
        if prefix:
            segments = prefix_of(route).split("/")[1:]
            position = bisect_right([-len(there) for there, _ in self._prefixes], -len(segments))
            self._prefixes.insert(position, (segments, target))
            return
        template = parse_route(route)
        if template.is_exact:
            self._exact[route] = target
        else:
            position = bisect_right(self._precedences, template.precedence)
            self._precedences.insert(position, template.precedence)
            self._templates.insert(position, (template, target))

    def remove(self, route: str, *, prefix: bool = False) -> None:
        """Remove a route, which must be there."""
        if prefix:
            segments = prefix_of(route).split("/")[1:]
            del self._prefixes[[there for there, _ in self._prefixes].index(segments)]
            return
        template = parse_route(route)
        if template.is_exact:
            del self._exact[route]
        else:
            position = [there for there, _ in self._templates].index(template)
            del self._precedences[position], self._templates[position]

    def match(self, path: str) -> tuple[T, dict[str, str]] | None:
        """The target of a raw (percent-encoded) path, with the values of its parameters; None if no route matches."""
        # hot: most instances have exact routes only, so a dict is tried before anything is split or decoded.
        target = self._exact.get(path)
        if target is not None:
            return target, {}
        if not self._templates and "%" not in path:
            return self._by_prefix(path) if self._prefixes else None
        parts = path.split("/")[1:]
        if "%" in path:
            decoded = [unquote(part) for part in parts]
            if not any("/" in part for part in decoded):
                target = self._exact.get("/" + "/".join(decoded))
                if target is not None:
                    return target, {}
        for template, target in self._templates:
            values = template.match(parts)
            if values is not None:
                return target, values
        return self._by_prefix(path) if self._prefixes else None

    def _by_prefix(self, path: str) -> tuple[T, dict[str, str]] | None:
        parts = [unquote(part) for part in path.split("/")[1:]]
        if not path.startswith("/") or (parts[0] == _RESERVED and len(parts) > 1):
            return None
        for segments, target in self._prefixes:
            if parts[: len(segments)] == segments:
                return target, {}
        return None
