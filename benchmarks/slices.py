"""Sides of a comparison that take turns every third of a second under one ``wrk``.

On a machine whose speed changes from second to second, two loads of some seconds each say more about the machine than
about what is compared. Here the same connections lead to one side and then to another, so what disturbs one disturbs
the next, and a ratio is taken within each cycle of all sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import psutil  # type: ignore[import-untyped]
import wrk
from cputime import role_of

SETTLE_S, SLICE_S = 0.06, 0.3
ROLES = ("ingress", "replicas")

_LUA = Path(__file__).with_suffix(".lua")


class Side(Protocol):
    """What is loaded: a path, with a header of that name whose value changes."""

    @property
    def key(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def header(self) -> str: ...


class Slice(msgspec.Struct, frozen=True, array_like=True):
    """A moment of one side; CPU time is per request, and 0 where the system does not tell it."""

    requests_per_s: float
    ingress_us: float
    replicas_us: float

    @property
    def cpu_us(self) -> float:
        return self.ingress_us + self.replicas_us


class Sliced(msgspec.Struct, frozen=True):
    """What one ``wrk`` found: every cycle with a slice of each side, by its key."""

    cycles: list[dict[str, Slice]]
    requests: int
    not_ok: int
    socket_errors: int


class _Counted(msgspec.Struct, array_like=True):
    """As the Lua script writes it; the side by its place."""

    side: int
    seconds: float
    requests: int
    ingress_ns: int
    replicas_ns: int

    def per_request(self) -> Slice:
        thousands = 1000 * max(1, self.requests)
        return Slice(
            round(self.requests / self.seconds, 1),
            round(self.ingress_ns / thousands, 2),
            round(self.replicas_ns / thousands, 2),
        )


class _Found(msgspec.Struct):
    slices: list[_Counted]
    requests: int
    not_ok: int
    socket_errors: int


def measure(port: int, pid: int, sides: Sequence[Side], *, connections: int, seconds: float, seed: int) -> Sliced:
    """Load all sides in turn.

    Args:
        pid: the server's; CPU time is that of its ingress and replicas.
        seconds: of the whole load.
        seed: for the order of the sides, which is another one in each cycle.
    """
    url = f"http://127.0.0.1:{port}{sides[0].path}"
    found = msgspec.json.decode(
        wrk.execute(_script(pid, sides, seed), url, connections=connections, seconds=seconds), type=_Found
    )
    slices = [(sides[one.side].key, one.per_request()) for one in found.slices]
    whole = len(slices) - len(slices) % len(sides)
    cycles = [dict(slices[start : start + len(sides)]) for start in range(0, whole, len(sides))]
    return Sliced(cycles, found.requests, found.not_ok, found.socket_errors)


def _script(pid: int, sides: Sequence[Side], seed: int) -> str:
    tasks: dict[str, list[str]] = {role: [] for role in ROLES}
    for process in psutil.Process(pid).children(recursive=True):
        role = role_of(process.cmdline())
        if role in tasks:
            tasks[role] += [str(task / "schedstat") for task in Path(f"/proc/{process.pid}/task").glob("*")]
    paths_and_headers = (f"{{path = {_text(side.path)}, header = {_text(side.header)}}}" for side in sides)
    cpu = ("{" + ", ".join(map(_text, paths)) + "}" for paths in tasks.values())
    settings = (
        f"SIDES = {{{', '.join(paths_and_headers)}}}",
        f"CPU = {{{', '.join(cpu)}}}",
        f"SEED, SETTLE_S, SLICE_S, VALUES = {seed}, {SETTLE_S}, {SLICE_S}, {wrk.CHANGING_VALUES}",
        f"BODY, RESULT = {_text(wrk.BODY)}, {_text(wrk.RESULT)}",
    )
    return "\n".join((*settings, _LUA.read_text()))


def _text(text: str) -> str:
    """As Lua writes it; our texts have no character that JSON writes in another way."""
    return msgspec.json.encode(text).decode()
