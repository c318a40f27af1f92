"""Mosec with one no-op worker and default settings; runs in Mosec's own environment.

Usage: mosec_noop.py --address 127.0.0.1 --port PORT (Mosec reads the options itself)
"""

from __future__ import annotations

from typing import Any

from mosec import Server, Worker  # type: ignore[import-not-found]  # installed in benchmarks/.peers only


class Noop(Worker):  # type: ignore[misc]
    def forward(self, data: Any) -> str:
        return "ok"


if __name__ == "__main__":
    server = Server()
    server.append_worker(Noop, num=1)
    server.run()
