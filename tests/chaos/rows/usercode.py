"""User code that does what nobody should do, beside a backend that must not notice."""

from __future__ import annotations

import os
from typing import Any

import httpx

from tests.chaos.arena import QUICK, Arena
from tests.chaos.checks import nothing_but
from tests.chaos.rows import row


class Abuses:
    """Each method is one thing that user code may do to its process."""

    def exits(self, request: Any) -> None:
        os._exit(3)

    def closes_all_files(self, request: Any) -> None:
        os.closerange(0, 1024)

    def forks(self, request: Any) -> str:
        if os.fork() == 0:
            os._exit(0)
        return "parent"

    def moves(self, request: Any) -> str:
        import locale
        import signal

        os.chdir("/")
        os.umask(0o777)
        locale.setlocale(locale.LC_ALL, "C")
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            try:
                signal.signal(signum, signal.SIG_IGN)
            except ValueError:
                pass  # only the main thread may, and this is not it
        return "moved"

    def prints(self, request: Any) -> str:
        for _ in range(100):
            print("x" * 100_000)
        return "printed"

    def leaves(self, request: Any) -> None:
        raise SystemExit(4)

    def interrupts(self, request: Any) -> None:
        raise KeyboardInterrupt

    def patches(self, request: Any) -> str:
        import json

        json.loads = json.dumps = None  # type: ignore[assignment]
        return "patched"

    def __call__(self, request: Any) -> str:
        return "fine"


@row("F39", "user code that ends, empties, forks, floods and patches its process")
def abuse(arena: Arena) -> None:
    arena.declared = ["SystemExit: 4", "KeyboardInterrupt"]
    arena.deploy(replicas=2)
    arena.client.create_backend("a", Abuses, config={**QUICK, "http_methods": "*"})
    arena.client.create_endpoint("a", backend="a", route="/a")
    allowed = {
        "exits": {502},
        "closes_all_files": {502, 200, 500},
        "forks": {200},
        "moves": {200},
        "prints": {200},
        "leaves": {500},
        "interrupts": {500},
        "patches": {200},
    }
    with arena.load() as load, httpx.Client(base_url=str(arena.client.http_address), timeout=15) as http:
        before = sorted(arena.replicas()), [p.pid for p in arena.processes("ingress") + arena.processes("controller")]
        for method, statuses in allowed.items():
            headers = (
                {"x-serve-call-method": method, "idempotency-key": "1"}
                if method != "exits"
                else {"x-serve-call-method": method}
            )
            # GET may be repeated, and is: what kills its replica kills the next one too.
            status = http.get("/a", headers=headers).status_code
            arena.expect(status in statuses, f"{method} was answered {status}")
            arena.wait(lambda: http.get("/a").status_code == 200, f"the backend serves again after {method}")
        after = sorted(arena.replicas()), [p.pid for p in arena.processes("ingress") + arena.processes("controller")]
        arena.expect(after == before, "processes were replaced that had nothing to do with it")
    arena.check(nothing_but(load.history, "delivered"))
