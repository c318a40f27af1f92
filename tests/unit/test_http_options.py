"""config: what users write about HTTP is converted where clear, and refused in one sentence where not."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from starlette.middleware import Middleware

from pointsman.client import start as starting
from pointsman.config import (
    BackendConfig,
    DeploymentMode,
    HTTPOptions,
    config_from_spec,
    config_spec,
    pack_middlewares,
    parse_http_options,
)
from pointsman.wire.handover import OPEN, HTTPSettings
from tests.unit.sentences import sentence


def test_http_defaults() -> None:
    """Nothing given means one server on loopback, port 8000, with a deadline and a body limit (IN3, HE2, HT11)."""
    http = parse_http_options(None)
    assert (http.host, http.port, http.location) == ("127.0.0.1", 8000, "HeadOnly")
    assert (http.request_timeout_s, http.max_body_bytes, http.debug, http.middlewares) == (300.0, 2**26, False, [])
    assert http.serves
    assert parse_http_options({}) == http == HTTPOptions()
    assert parse_http_options(http) is http


@pytest.mark.parametrize("value", ["127.0.0.1", 8000, [("port", 1)], BackendConfig(), object()])
def test_http_options_of_another_type(value: Any) -> None:
    """HTTP options that are neither a dict nor HTTPOptions are a TypeError that shows them (IN3)."""
    with pytest.raises(TypeError) as caught:
        parse_http_options(value)
    sentence(caught.value, "http_options", "dict or HTTPOptions", repr(value))


@pytest.mark.parametrize(
    ("key", "meant"), [("prot", "port"), ("hosts", "host"), ("middleware", "middlewares"), ("timeout_s", "")]
)
def test_unknown_http_options(key: str, meant: str) -> None:
    """An unknown HTTP option is refused by name, with the one that was probably meant (IN3)."""
    with pytest.raises(ValueError) as caught:
        parse_http_options({key: 1})
    sentence(caught.value, f"'{key}'", meant)


DEADLINES = ("keep_alive_s", "head_timeout_s", "body_idle_timeout_s")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", 5),
        ("port", -1),
        ("port", 65536),
        ("port", "http"),
        ("port", None),
        ("location", "headonly"),
        ("location", 3),
        ("middlewares", None),
        ("middlewares", "cors"),
        ("debug", "maybe"),
        ("debug", 1),
        ("request_timeout_s", 0),
        ("request_timeout_s", math.inf),
        ("request_timeout_s", math.nan),
        *((field, value) for field in DEADLINES for value in (0, -1.0, math.inf, math.nan, "10 s", None)),
        ("body_min_bytes_per_s", -1),
        ("body_min_bytes_per_s", 0.5),
        ("body_min_bytes_per_s", None),
        ("max_body_bytes", -1),
        ("max_body_bytes", 0.5),
        ("processes", 0),
    ],
)
def test_bad_http_options(field: str, value: Any) -> None:
    """A bad HTTP option is refused with field and value, at construction and at assignment (IN3)."""
    with pytest.raises(ValueError) as caught:
        parse_http_options({field: value})
    sentence(caught.value, field, repr(value))
    http = HTTPOptions()
    with pytest.raises(ValueError) as caught:
        setattr(http, field, value)
    sentence(caught.value, field, repr(value))
    assert http == HTTPOptions()


def test_an_ingress_is_told_what_its_operator_has_set() -> None:
    """Every option that an ingress acts on reaches it (IN3)."""
    given = HTTPOptions(
        host="::1",
        port=1234,
        debug=True,
        request_timeout_s=5,
        max_body_bytes=7,
        expose_headers=False,
        access_log=0.5,
        slow_request_s=3,
        keep_alive_s=650,
        head_timeout_s=4,
        body_idle_timeout_s=9.5,
        body_min_bytes_per_s=0,
    )
    told = starting.http_settings(given, OPEN)
    assert told is not None
    fields = [field for field in told.__struct_fields__ if field not in ("middlewares", "origin", "lock")]
    assert {field: getattr(told, field) for field in fields} == {field: getattr(given, field) for field in fields}
    usual = starting.http_settings(HTTPOptions(), OPEN)
    assert usual is not None
    missing = HTTPSettings("127.0.0.1", 8000, False, 300.0, usual.max_body_bytes, True, b"", usual.origin)
    assert usual == missing


@pytest.mark.parametrize("field", ["port", "request_timeout_s", "max_body_bytes", "processes", *DEADLINES])
def test_bools_are_no_http_numbers(field: str) -> None:
    """A bool where an HTTP option is a number is refused (IN3)."""
    with pytest.raises(ValueError) as caught:
        parse_http_options({field: True})
    sentence(caught.value, field, True)


@pytest.mark.parametrize(
    "given_options",
    [{"host": None}, {"location": None}, {"location": "NoServer"}, {"location": DeploymentMode.NoServer}],
)
def test_spellings_of_no_http(given_options: dict[str, Any]) -> None:
    """Every spelling of "no HTTP server" is understood (LO3)."""
    assert not parse_http_options(given_options).serves


@pytest.mark.parametrize("options", [{"host": None}, {"location": None}, {"host": None, "location": "EveryNode"}])
def test_without_a_server_the_location_says_so(options: dict[str, Any]) -> None:
    """Whichever option switches HTTP off, the location reads NoServer, as in 1.x; after an assignment, too (LO1)."""
    assert parse_http_options(options).location == "NoServer"
    http = parse_http_options({})
    for name, value in options.items():
        setattr(http, name, value)
    assert http.location is DeploymentMode.NoServer
    assert not http.serves


@pytest.mark.parametrize("mode", ["HeadOnly", "EveryNode", "NoServer"])
def test_locations_are_strings(mode: str) -> None:
    """A location may be given as text or enum and compares equal to its name (LO1, LO2)."""
    assert parse_http_options({"location": mode}).location == mode == DeploymentMode(mode)
    assert parse_http_options({"location": DeploymentMode(mode)}) == parse_http_options({"location": mode})


class Tagging:
    """An ASGI middleware."""

    def __init__(self, app: Any, tag: str = "") -> None:
        self.app, self.tag = app, tag


def test_middlewares_are_packed() -> None:
    """Middlewares go to the ingress with their arguments; without any nothing is sent (HT9)."""
    assert pack_middlewares(HTTPOptions()) == b""
    packed = pack_middlewares(HTTPOptions(middlewares=[Middleware(Tagging, tag="x")]))
    assert b"Tagging" in packed


@pytest.mark.parametrize(
    ("middleware", "part"),
    [(Tagging, "Tagging"), ("cors", "'cors'"), (Middleware(Tagging, tag=threading.Lock()), "pickle")],
)
def test_what_is_no_middleware(middleware: Any, part: str) -> None:
    """What is no Starlette middleware, or cannot travel, is refused before anything starts (HT9)."""
    with pytest.raises(TypeError) as caught:
        pack_middlewares(HTTPOptions(middlewares=[middleware]))
    sentence(caught.value, part)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        (["a", "b", "a"], ["a", "b"]),
        (("predict",), ["predict"]),
        ("*", "*"),
        (["*", "a"], "*"),
    ],
)
def test_methods_for_http_clients(given: Any, kept: Any) -> None:
    """``http_methods`` is a list of names, or ``*``, and comes back as it is meant (BC8)."""
    config = BackendConfig(http_methods=given)
    assert config.http_methods == kept
    assert config_from_spec(config_spec(config)).http_methods == kept


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("predict", ["['predict']"]),
        (["_secret"], ["'_secret'", "never open"]),
        (["__init__"], ["'__init__'", "never open"]),
        (["__call__"], ["'__call__'", "without being named"]),
        (["reconfigure"], ["'reconfigure'", "never open"]),
        (["check_health"], ["'check_health'", "never open"]),
        (["close"], ["'close'", "never open"]),
        (["two words"], ["'two words'"]),
        ([""], ["''"]),
        ([5], ["5", "list of str"]),
        (5, ["5", "list of names"]),
        (None, ["None", "list of names"]),
        (True, ["True"]),
    ],
)
def test_what_no_http_client_may_choose(bad: Any, words: list[str]) -> None:
    """Names that are never open to callers, and what are no names, are refused (BC1, BC8)."""
    with pytest.raises(ValueError) as caught:
        BackendConfig(http_methods=bad)
    sentence(caught.value, "http_methods", *words)
