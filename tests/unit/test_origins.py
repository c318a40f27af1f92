"""lock.origins: CORS as Starlette's middleware does it."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pointsman.config import HTTPOptions
from pointsman.lock.origins import Headers, Origins, cors_spec
from tests.unit.sentences import sentence

OPTIONS: list[dict[str, Any]] = [
    {},
    {"allow_origins": ["*"]},
    {"allow_origins": ["*"], "allow_methods": ["*"], "allow_headers": ["*"], "expose_headers": ["X-A", "X-B"]},
    {"allow_origins": ["https://a.b"], "allow_credentials": True, "allow_headers": ["X-Mine"], "max_age": 5},
    {"allow_origin_regex": r"https://.*\.a\.b", "allow_methods": ["POST", "PUT"], "allow_private_network": True},
    {"allow_origins": ["null"]},
]
ORIGINS = [None, "https://a.b", "https://x.a.b", "https://a.b.evil", "http://a.b", "null", "https://A.B", ""]
ASKED = [{}, {"access-control-request-headers": "X-Mine, content-type"}, {"access-control-request-headers": "x-no"}]
PRIVATE: list[dict[str, str]] = [{}, {"access-control-request-private-network": "true"}]
MINE = ("access-control-", "vary")


class Behind:
    """An app behind Starlette's middleware."""

    def __init__(self, app: Any) -> None:
        self._transport = httpx.ASGITransport(app)

    def ask(self, method: str, headers: dict[str, str]) -> httpx.Response:
        async def asking() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://x") as client:
                return await client.request(method, "/", headers=headers)

        return asyncio.run(asking())


def starlettes(options: dict[str, Any]) -> Behind:
    app = Starlette(
        routes=[Route("/", lambda request: PlainTextResponse("x"), methods=["GET"])],
        middleware=[Middleware(CORSMiddleware, **options)],
    )
    return Behind(app)


def said(lines: list[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in lines if name.lower().startswith(MINE)}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_answers_have_the_headers_of_starlette(options: dict[str, Any]) -> None:
    """An answer says to a page what it says behind Starlette's middleware (ED5)."""
    spec = cors_spec(options)
    assert spec is not None
    ours, theirs = Origins(spec), starlettes(options)
    for origin in ORIGINS:
        answer = theirs.ask("GET", {} if origin is None else {"origin": origin})
        lines = ours.lines(None if origin is None else origin.encode()).decode().splitlines()
        mine = said([(name, value) for name, _, value in (line.partition(": ") for line in lines)])
        wanted = said(list(answer.headers.items()))
        if origin is None or not ours.allows(origin.encode()):
            wanted = {"vary": "Origin"}  # Starlette also says by which headers a page that it does not allow could read
        assert mine == wanted | {"vary": "Origin"}, origin


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_preflights_are_answered_as_by_starlette(options: dict[str, Any]) -> None:
    """A preflight gets status, text and headers of Starlette's middleware (ED5)."""
    spec = cors_spec(options)
    assert spec is not None
    ours, theirs = Origins(spec), starlettes(options)
    for origin, method, asked, private in itertools.product(ORIGINS[1:], ("GET", "PUT"), ASKED, PRIVATE):
        sent = {"origin": str(origin), "access-control-request-method": method, **asked, **private}
        headers: Headers = [(name.encode(), value.encode()) for name, value in sent.items()]
        mine, answer = ours.preflight(headers), theirs.ask("OPTIONS", sent)
        assert (mine.status, mine.text) == (answer.status_code, answer.content)
        assert said([(name.decode(), value.decode()) for name, value in mine.headers]) == said(
            list(answer.headers.items())
        )


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"allow_origins": ["*"], "allow_credentials": True}, "credentials"),
        ({"allow_origin": ["*"]}, "'allow_origins'"),
        ({"allow_origins": "*"}, "list"),
        ({"allow_origins": [5]}, "list of str"),
        ({"allow_methods": ["GET\r\nx: y"]}, "header"),
        ({"allow_origin_regex": "("}, "regular expression"),
        ({"allow_origin_regex": 5}, "regular expression"),
        ({"allow_credentials": 1}, "True or False"),
        ({"max_age": -1}, "seconds"),
        (["*"], "dict"),
        (True, ""),
    ],
)
def test_bad_cors(given: Any, word: str) -> None:
    """What the middleware would not take, or take for something else, is refused at once (ED5)."""
    with pytest.raises(ValueError) as caught:
        HTTPOptions(cors=given)
    sentence(caught.value, "cors", word)
