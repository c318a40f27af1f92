"""Rollouts of a real instance, ten at a time with seeds of their own: ``python -m tests.rollout_runs [local|ray]``.

Each endpoint gets 100 requests/s by handles. Of ten versions with 2 % errors beside 0.1 %, nine at least must go back
before they were exposed to more than ``MOST`` requests; of ten that are equal, nine at least must be promoted.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pointsman as serve
from tests.conftest import start_client

RUNS, ENOUGH = 10, 9
RATE = 100
BEAT_S = 0.05
PLAN: dict[str, Any] = {
    "steps": [0.1, 0.2, 0.4, 1.0],
    "hold_s": 20,
    "min_samples": 50,
    "gates": {"error_rate": {}, "health": {}},  # the load is made by this machine, so latencies are its own
}
MOST = 886
"""Requests after which 99 of 100 such versions are back (RO12, decision 0078)."""


class Version:
    """Fails with this probability: each caller brings the number that decides."""

    def __init__(self, errors: float) -> None:
        self._errors = errors

    def __call__(self, request: Any) -> str:
        if float(request.body()) < self._errors:
            raise RuntimeError("this version sometimes fails")
        return "fine"


def run(client: serve.Client, name: str, to: str) -> list[dict[str, Any]]:
    """Ten rollouts at once; returns how each has ended."""
    endpoints = [f"{name}{number}" for number in range(RUNS)]
    for endpoint in endpoints:
        client.create_endpoint(endpoint, backend="main")
    calls = [caller(client, endpoint, random.Random(f"{endpoint} 1")) for endpoint in endpoints]
    for endpoint in endpoints:
        client.start_rollout(endpoint, to, **PLAN)
    began = due = looked = time.monotonic()
    while time.monotonic() < began + 120:
        for call in calls:
            next(call)
        due += BEAT_S
        time.sleep(max(0.0, due - time.monotonic()))
        if time.monotonic() > looked + 1:
            looked = time.monotonic()
            if all(client.rollout(endpoint)["ended"] for endpoint in endpoints):
                break
    ends = [client.rollout(endpoint) for endpoint in endpoints]
    for endpoint in endpoints:
        client.delete_endpoint(endpoint)
    return ends


def caller(client: serve.Client, endpoint: str, chance: random.Random) -> Iterator[None]:
    """Each step sends the requests of one beat."""
    handle = client.get_handle(endpoint)
    under_way: list[Any] = []
    while True:
        under_way = [one for one in under_way if not one.done()]
        under_way += [handle.remote(str(chance.random())) for _ in range(round(RATE * BEAT_S))]
        yield


def main(engine: str) -> int:
    client = start_client(engine)
    try:
        for tag, errors in (("main", 0.001), ("worse", 0.02), ("equal", 0.001)):
            client.create_backend(tag, Version, errors)
        wrong = 0
        for to, state in (("worse", "rolled_back"), ("equal", "promoted")):
            ends = run(client, to, to)
            for end in ends:
                print(f"{engine}: {to}: {end['reason'] or end['state']}", flush=True)
            right = [end for end in ends if end["state"] == state and (to == "equal" or end["exposed"] <= MOST)]
            states = dict(Counter(end["state"] for end in ends))
            exposed = sorted(end["exposed"] for end in ends)
            print(f"{engine}: {to}: {len(right)} of {RUNS} as they should; {states}; exposed {exposed}", flush=True)
            wrong += len(right) < ENOUGH
        return wrong
    finally:
        client.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "local"))
