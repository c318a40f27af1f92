"""Requests whose head is the last one of their connection again, over connections in memory: they are as the first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pointsman.ingress.codec import Scope
from pointsman.ingress.reading import Reader
from pointsman.testing import run
from tests.conftest import PURE_ONLY
from tests.corpus import CASES, post
from tests.loop.edge import SOON_S, edge
from tests.loop.strangers import WAYS as RECORDED
from tests.loop.strangers import Recorder, Seen, sent

WAYS = pytest.mark.parametrize("middlewares", [False, True], ids=["direct", "with middlewares"])
CUTS = pytest.mark.parametrize("cut", [1, 80, 1000])
ONE = post(b"content-length: 1", body=b"x", path=b"/b")


class Spoiler(Recorder):
    """Changes all that it is given."""

    def saw(self, scope: Scope, body: bytes) -> None:
        super().saw(scope, body)
        scope["headers"][0] = (b"host", b"spoilt")
        scope["headers"].append((b"x-spoilt", b"1"))
        for name in ("method", "raw_path", "query_string", "http_version", "client"):
            scope[name] = None
        scope["more"] = True


@RECORDED
@CUTS
def test_what_an_app_does_to_a_request_is_not_done_to_the_next(middlewares: bool, cut: int) -> None:
    """An app or a middleware changes the headers and the scope that it was given: the next request with the same head
    is as its client has sent it, on the same connection and on others."""
    data = ONE * 6

    async def main() -> None:
        for _ in range(2):
            pieces = [data[start : start + cut] for start in range(0, len(data), cut)]
            outcome = await sent(pieces, middlewares=middlewares, kind=Spoiler)
            headers = ((b"host", b"x"), (b"content-length", b"1"))
            assert outcome.seen == (Seen(b"POST", b"/b", b"", headers, b"x"),) * 6
            assert outcome.statuses == (200,) * 6

    run(main())


@WAYS
@pytest.mark.parametrize("sent_id", [b"", b"x-request-id: not one, with blanks\r\n", b"x-request-id: mine\r\n"])
def test_what_the_server_adds_belongs_to_one_request(sent_id: bytes, middlewares: bool) -> None:
    """Each of five requests with the same head has an id of its own, or the one that its client gave, once; and the
    mark of shadow traffic that the client has no right to is in none of them."""
    request = ONE.replace(b"host: x\r\n", b"host: x\r\nx-serve-shadow: 1\r\n" + sent_id)

    async def main() -> None:
        async with edge(middlewares=middlewares) as there:
            client = await there.client()
            client.send(request * 2)
            for number in range(5):
                await asyncio.sleep(SOON_S)
                assert len(there.replica.arrived) == number + 1
                there.replica.reply()
                if number >= 1:
                    client.send(request)
            seen = [call.request for call in there.replica.arrived]
            ids = [[value for name, value in head.headers if name == b"x-request-id"] for head in seen]
            assert [len(values) for values in ids] == [1] * 5
            assert [values[0].decode() for values in ids] == [head.request_id for head in seen]
            assert len({head.request_id for head in seen}) == (1 if b"mine" in sent_id else 5)
            for head in seen:
                others = [header for header in head.headers if header[0] != b"x-request-id"]
                assert others == [(b"host", b"x"), (b"content-length", b"1")]

    run(main())


@pytest.mark.slow
@PURE_ONLY
@WAYS
def test_whatever_comes_between(middlewares: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each case of the corpus between requests that are all the same: what is served, refused and closed is what a
    server does that remembers no head (F28)."""
    remember = Reader._remember

    def forget(self: Reader, scope: dict[str, Any]) -> None:
        pass

    async def main() -> None:
        for case in CASES:
            requests = [ONE, ONE, ONE, case.data, ONE, ONE, ONE, ONE + case.data]
            for pieces in (
                requests,
                [b"".join(requests)],
                [ONE * 3 + ONE[:-1], ONE[-1:] + ONE[:-1], ONE[-1:] + case.data + ONE],
            ):
                monkeypatch.setattr(Reader, "_remember", remember)
                outcome = await sent(pieces, middlewares=middlewares)
                monkeypatch.setattr(Reader, "_remember", forget)
                assert outcome == await sent(pieces, middlewares=middlewares), case.name

    run(main())
