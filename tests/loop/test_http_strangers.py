"""The test cases of llhttp, over connections in memory: what others have found worth a test of a parser.

Each is a request that a server refuses, or sees as the parser's own log shows it. They are sent whole, line by line,
byte by byte and in other cuts, as they are and with the ``Host`` that many of them lack.
"""

from __future__ import annotations

import zlib
from urllib.parse import urlsplit

import pytest

from pointsman.testing import run
from tests.corpus import LAST, SECRET, cuts, post
from tests.llhttp import FOLDER, Told, cases
from tests.loop.strangers import WAYS, Outcome, Seen, sent

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the test cases of llhttp are not there (make llhttp)"),
    pytest.mark.slow,
]
CASES = cases()

REFUSED: dict[str, str] = {
    "method 1": "a tunnel: nobody opens one",
    "method 2": "a tunnel",
    "method 3": "a tunnel",
    "uri 8": "a tunnel",
    "method 11": "ICE is not HTTP",
    "method 12": "RTSP is not HTTP",
    "method 13": "RTSP is not HTTP",
    "method 14": "HTTP/2, which is not spoken, and no offer of it either",
    "sample 9": "HTTP/0.9 has neither status nor length, and nobody sends it any more",
    "transfer-encoding 19": "a coding besides chunked, which nobody would undo (H1, H8)",
    "transfer-encoding 20": "the same in two lines",
}
"""What the parser takes, and a server of Pointsman does not, and why."""

OFFERS = ("connection 11", "connection 15", "connection 16", "connection 17", "connection 18")
"""The parser stops behind an offer of another protocol. The server does not take it up, so the request is one like
others, and what follows is the next one."""

NOT_WHOLE = ("content-length 14",)
"""The parser is told in its test that there is no body; the head says that there is one, so the server waits for it."""


def number_of(case: Told) -> str:
    return case.name.partition(":")[0]


def wanted(case: Told, *, hosted: bool) -> tuple[Seen, ...]:
    """What an app is to see of a case."""
    seen = []
    for method, target, headers, body in case.seen:
        if target.startswith(b"/"):
            path, _, query = target.partition(b"#")[0].partition(b"?")
        elif target == b"*":
            path, query = target, b""
        else:
            parts = urlsplit(target)
            path, query = parts.path or b"/", parts.query
        has_host = any(name == b"host" for name, _ in headers)
        seen.append(Seen(method, path, query, headers if has_host or not hosted else ((b"host", b"x"), *headers), body))
    return tuple(seen)


@WAYS
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_others_requests(case: Told, middlewares: bool) -> None:
    """A request that others have thought of is refused and its connection closed, or the app sees method, target,
    headers and body as the parser's makers say (H1-H6, F28)."""

    async def outcomes(data: bytes) -> set[Outcome]:
        return {await sent(pieces, middlewares=middlewares) for pieces in cuts(data, seed=zlib.crc32(data))}

    async def main() -> None:
        for data in {case.data, case.hosted}:
            (outcome,) = await outcomes(data)  # the same, however it is cut
            seen = wanted(case, hosted=data == case.hosted != case.data)
            assert outcome.seen == seen[: len(outcome.seen)]
            assert outcome.statuses[: len(outcome.seen)] == (200,) * len(outcome.seen)
            assert len(outcome.statuses) <= len(outcome.seen) + outcome.refused, "somebody else answered"
            if number_of(case) in NOT_WHOLE:
                assert (outcome.seen, outcome.refused) == ((), data != case.hosted)
            elif not outcome.refused:
                assert outcome.seen == seen
                assert outcome.closed or not case.error or number_of(case) in OFFERS
            elif data == case.hosted:  # and not for want of a Host
                is_lax = case.kind not in ("request", "request-finish")
                assert case.error or is_lax or number_of(case) in REFUSED
            if number_of(case) in REFUSED:
                assert (outcome.refused, outcome.seen) == (True, ())
            elif number_of(case) in OFFERS and data == case.hosted:
                assert outcome.seen == seen

    run(main())


@WAYS
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_others_requests_in_a_pipeline(case: Told, middlewares: bool) -> None:
    """What is wrong in the middle of a pipeline is refused behind the answers to what was right, and nothing behind it
    runs (H6, H7, F28)."""
    before = post(b"content-length: %d" % len(SECRET), body=SECRET)

    async def main() -> None:
        data = before + case.hosted + LAST
        for pieces in cuts(data, seed=zlib.crc32(data)):
            outcome = await sent(pieces, middlewares=middlewares)
            first, *others = outcome.seen
            assert (first.path, first.body) == (b"/first", SECRET)
            assert not any(request.path.startswith(b"/secret") for request in outcome.seen)
            if outcome.refused and (case.error or number_of(case) in REFUSED) and number_of(case) not in OFFERS:
                assert tuple(others) == wanted(case, hosted=True)[: len(others)]
                assert outcome.statuses[:-1] == (200,) * len(outcome.seen)

    run(main())


def test_the_cases_are_all_there() -> None:
    """What is said here of some of the cases is said of cases that exist."""
    numbers = {number_of(case) for case in CASES}
    assert len(CASES) >= 150
    assert sum(case.kind == "request" for case in CASES) >= 120
    assert {*REFUSED, *OFFERS, *NOT_WHOLE} <= numbers
