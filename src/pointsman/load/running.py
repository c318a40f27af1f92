"""A whole run of ``pointsman load``: from what was asked for to what was counted."""

from __future__ import annotations

import gc
import random
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from pointsman.load.loops import POISSON, Watcher, closed_loop, constant, open_loop, poisson
from pointsman.load.network import Sockets, room_for_connections
from pointsman.load.requests import Message, stream_of
from pointsman.load.tally import CLOSED, OPEN, Sample, Tally
from pointsman.load.target import Target, choose

LEAST_PATIENCE_S = 0.001


class Plan(NamedTuple):
    """What is sent, and when.

    Attributes:
        tls: for a target of https.
        seconds: how long requests are sent.
        rate: requests per second of an open loop; None for a closed one.
        concurrency: requests under way in a closed loop.
        arrivals: ``poisson`` or ``constant``.
        connections: at most, in an open loop.
        patience_s: seconds that a request may take.
        seed: of arrivals and keys.
    """

    target: Target
    message: Message
    tls: ssl.SSLContext | None
    seconds: float
    rate: float | None
    concurrency: int
    arrivals: str
    connections: int
    patience_s: float
    seed: int


class Outcome(NamedTuple):
    """What came of a run; ``interrupted`` if a signal has ended it."""

    tally: Tally
    interrupted: bool


def run(plan: Plan, show: Callable[[Sample], None] | None = None) -> Outcome:
    """Send, and return when every request has ended or has been given up, or at SIGINT or SIGTERM.

    Args:
        show: gets a sample each half second.
    """
    tally = Tally(CLOSED if plan.rate is None else OPEN)
    requests = stream_of(plan.message, plan.target.host, plan.target.path, plan.seed)
    most = plan.concurrency if plan.rate is None else room_for_connections(plan.connections)
    headless = plan.message.method == "HEAD"
    place = choose(plan.target)
    gc.freeze()  # a collection of what was there before would make requests late
    with _stopped_by_signals() as stopped:
        network = Sockets(place, plan.tls, plan.target.name, most=most, headless=headless)
        watcher = Watcher(stopped, show)
        try:
            if plan.rate is None:
                closed_loop(network, tally, watcher, plan.seconds, plan.concurrency, requests, plan.patience_s)
            else:
                open_loop(network, tally, watcher, _arrivals(plan, plan.rate), requests, plan.patience_s)
        finally:
            network.close()
            gc.unfreeze()
    return Outcome(tally, stopped())


def _arrivals(plan: Plan, rate: float) -> Iterator[float]:
    count = max(1, round(rate * plan.seconds))
    if plan.arrivals == POISSON:
        return poisson(count, plan.seconds, random.Random(plan.seed).random)
    return constant(count, plan.seconds)


@contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """In the body, the first signal only asks to stop, so that nothing is cut in two; a second one ends it as ever."""
    asked = False
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def ask(_: int, __: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for signum, handler in before.items():
            signal.signal(signum, handler)

    for signum, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(signum, ask)
    try:
        yield lambda: asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
