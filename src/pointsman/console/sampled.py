"""The calls of the API about what is sampled: the stream of state and numbers, and how numbers have gone."""

from __future__ import annotations

from typing import Any

from pointsman.console.live import MAX_VIEWERS
from pointsman.console.operations import begun
from pointsman.console.problems import Problem
from pointsman.console.sampler import Sampler
from pointsman.console.table import Ask, Call, Query
from pointsman.exceptions import ServeException, TokenError

SPANS = ("5m", "1d")


def calls_of(sampler: Sampler) -> list[Call]:
    """The calls that a sampler answers."""

    async def live(ask: Ask) -> Any:
        assert ask.request is not None
        if sampler.viewers.full:
            raise Problem(503, f"{MAX_VIEWERS} pages follow this instance already; close some")
        client = ask.client

        async def admitted() -> bool:
            try:
                await begun(client.holder, "read")
            except TokenError:
                return False
            except ServeException:
                return True  # the controller is away, and nobody is shut out for that
            return True

        compressed = "gzip" in ask.request.headers.get("accept-encoding", "")
        return await sampler.response(admitted, compressed=compressed)

    def series(ask: Ask) -> Any:
        endpoint, backend, span = ask.query.get("endpoint"), ask.query.get("backend"), ask.query.get("span", "5m")
        if endpoint is None and backend is None:
            raise ValueError("give an endpoint, a backend, or both for a part of a split")
        if span not in SPANS:
            raise ValueError(f"span must be one of {', '.join(SPANS)}, not {span!r:.60}")
        return sampler.series(endpoint=endpoint, backend=backend, day=span == "1d")

    return [
        Call(
            "GET", "/live", live,
            "Server-sent events: `state` (as /status) at first and on each change, `numbers` each second, `away` and"
            " `back` when the controller is gone and there again.",
        ),
        Call(
            "GET", "/series", series,
            "How the numbers of an endpoint, a backend, or with both of a part of a split have gone: one row for each"
            " step, the newest last.",
            query=(
                Query("endpoint", "Of this endpoint.", {"type": "string"}),
                Query("backend", "Of this backend.", {"type": "string"}),
                Query("span", "The last five minutes by second, or a day by five minutes.", {"enum": list(SPANS)}),
            ),
        ),
    ]  # fmt: skip
