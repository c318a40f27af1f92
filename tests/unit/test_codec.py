"""ingress.codec: which key a request has, and what HTTP clients are told."""

from __future__ import annotations

from urllib.parse import unquote

import pytest

from pointsman.exceptions import (
    BackpressureError,
    CallRejectedError,
    DeadlineExceededError,
    ReplicaDiedError,
    ServeException,
    TooLargeError,
    UserCodeError,
)
from pointsman.incoming import RequestHead
from pointsman.ingress.codec import (
    MAX_KNOWN,
    RequestRejected,
    _known_lines,
    answer_for,
    decision_headers,
    header_lines,
    read_headers,
    request_id_of,
    shard_key_of,
    wants_json,
)
from pointsman.model import DEFAULT_SHARD_KEY, EndpointSpec, TrafficPolicy
from pointsman.routing.call import Call
from pointsman.routing.router import NoSuchEndpointError
from pointsman.telemetry.logs import WarningBudget


@pytest.mark.parametrize(
    ("error", "status", "reason", "may_retry"),
    [
        (BackpressureError("full"), 503, "queue_full", True),
        (DeadlineExceededError("late", started=False), 503, "deadline", True),
        (DeadlineExceededError("late", started=True), 504, "deadline", False),
        (ReplicaDiedError("died"), 502, "replica_died", False),
        (NoSuchEndpointError("none"), 404, "no_such_endpoint", False),
        (CallRejectedError("closed"), 400, "rejected", False),
        (TooLargeError("17 MB"), 413, "rejected", False),
        (UserCodeError("KeyError: '/secret'"), 500, "user_code", False),
        (ServeException("other"), 503, "unreachable", True),
    ],
)
def test_each_error_has_one_answer(error, status, reason, may_retry):
    """An error becomes one status, with Retry-After exactly when the request did not run (HE1, G2)."""
    answer = answer_for(error)
    assert (answer.status, answer.reason) == (status, reason)
    assert any(name == b"retry-after" for name, _ in answer.headers) == may_retry
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ([], True),
        ([b"*/*"], True),
        ([b"application/json;q=0.5"], True),
        ([b"text/html, application/*"], True),
        ([b"text/plain"], False),
        ([b"text/html", b"image/png"], False),
    ],
)
def test_json_when_the_client_takes_it(accept, json):
    """Error bodies are JSON unless the client's Accept rules it out (HE1)."""
    assert wants_json([(b"accept", value) for value in accept]) is json


@pytest.mark.parametrize("given", [None, b"", b"has space", b"x" * 129, b"a\x1bb"])
def test_unfit_request_ids_are_replaced(given):
    """A request id that is missing or could harm a log is replaced, for everyone who asks later."""
    headers = [(b"x-request-id", given)] if given is not None else []
    read_headers(headers)
    request_id = request_id_of(headers)
    assert request_id.encode() != given
    assert request_id.isalnum()
    other: list[tuple[bytes, bytes]] = []
    read_headers(other)
    assert request_id_of(other) != request_id


def test_method_names_are_utf8():
    """A method name that is not text is refused, not guessed (400)."""
    assert read_headers([(b"x-serve-call-method", b"\xff")]).problem == "header x-serve-call-method is not UTF-8"
    assert read_headers([(b"x-serve-call-method", "ß".encode())]).problem == ""


@pytest.mark.parametrize("name", [b"serve_multiplexed_model_id", b"serve-multiplexed-model-id"])
def test_a_header_names_the_model(name):
    """A request names its model by a header, with underscores or dashes; an empty, long or garbled one is 400 (MX3)."""
    assert read_headers([(name, b"digits:7")]).model_id == "digits:7"
    assert read_headers([(name, "größe".encode())]).model_id == "größe"
    assert read_headers([(name, b"m" * 256)]).problem == ""
    for bad in (b"", b"m" * 257, b"\xff"):
        problem = "header serve_multiplexed_model_id must have 1 to 256 bytes of UTF-8"
        assert read_headers([(name, bad), (b"x-other", b"1")]).problem == problem
        assert read_headers([(name, bad), (name, b"good")]).problem == problem
    assert read_headers([(b"x-other", b"1")]).model_id == ""


def test_of_several_model_headers_the_first_counts():
    """A request that names two models gets the first (MX3)."""
    headers = [(b"serve-multiplexed-model-id", b"a"), (b"serve_multiplexed_model_id", b"b")]
    assert read_headers(headers).model_id == "a"
    assert read_headers(headers).problem == ""


def test_header_lines_are_remembered_within_bounds():
    """Headers that come again are not looked at again; what HTTP does not allow is refused each time, and neither many
    nor long ones fill the memory (H13, G12)."""
    before = [(b"x-a", b"1"), (b"x-b", b"2")]
    for _ in range(2):
        assert header_lines(before) == b"x-a: 1\r\nx-b: 2\r\n"
        assert header_lines([(b"x-a", b"1\r\nx-b: 2")]) is None
        assert header_lines([]) == b""
    for number in range(3 * MAX_KNOWN):
        assert header_lines([(b"x", b"%d" % number)]) == b"x: %d\r\n" % number
        assert header_lines([(b"x", b"%d" % number * 1000)]) is not None
    assert len(_known_lines) <= MAX_KNOWN
    assert max(len(lines) for lines in _known_lines.values()) <= MAX_KNOWN


def test_warnings_have_a_budget():
    """Under overload the log says how much it held back instead of drowning its reader (H10)."""
    budget = WarningBudget()
    assert [budget.take("full", 1.0) for _ in range(12)] == [0] * 10 + [None, None]
    assert budget.take("other", 1.5) == 0
    assert budget.take("full", 2.0) == 2
    assert budget.take("full", 2.1) == 0


def test_a_forged_mark_of_shadow_calls_is_taken_out():
    """A client cannot pass its request off as a shadow copy, however often it says so; the rest stays (SH4)."""
    mark = (b"x-serve-shadow", b"1")
    rest = [(b"host", b"h"), (b"x-serve-shadowy", b"1"), (b"x-request-id", b"r1"), (b"x-user", b"alice")]
    headers = [mark, *rest[:2], mark, *rest[2:], (b"x-serve-shadow", b"0")]
    read_headers(headers)
    assert headers == rest
    assert request_id_of(headers) == "r1"
    headers = [mark, (b"x-request-id", b"not fit\n"), mark]
    read_headers(headers)
    assert [name for name, _ in headers] == [b"x-request-id"]
    assert request_id_of(headers).isalnum()


def endpoint(shard_key):
    return EndpointSpec("e", "/e", ("GET",), TrafficPolicy(1, {"b": 1.0}), shard_key=shard_key)


def key_of(shard_key, headers, query=b""):
    headers = list(headers)
    return shard_key_of(read_headers(headers), endpoint(shard_key), headers, query)


@pytest.mark.parametrize(
    ("values", "key"),
    [([], None), ([b"alice"], "alice"), ([b""], ""), ([b"alice", b"bob"], "alice"), ([b"", b"bob"], "")],
)
def test_the_default_header_holds_the_key(values, key):
    """X-Serve-Shard-Key is the key; an empty one is a key, none is not, and of several the first counts (SA5)."""
    assert key_of(DEFAULT_SHARD_KEY, [(b"x-serve-shard-key", value) for value in values]) == key


def test_keys_come_from_where_the_endpoint_says():
    """An endpoint with another source reads its key there only, the default header notwithstanding (SA5)."""
    headers = [(b"x-serve-shard-key", b"default"), (b"x-user", "Zoë".encode()), (b"cookie", b"a=b; id=7")]
    query = b"a=1&user=a%20b"
    assert key_of(DEFAULT_SHARD_KEY, headers, query) == "default"
    assert key_of("header:x-user", headers, query) == "Zoë"
    assert key_of("cookie:id", headers, query) == "7"
    assert key_of("query:user", headers, query) == "a b"
    for source in ("header:x-other", "cookie:ID", "query:b"):
        assert key_of(source, headers, query) is None


@pytest.mark.parametrize("bad", [b"\xff", b"x" * 257])
@pytest.mark.parametrize("source", [DEFAULT_SHARD_KEY, "header:x-user", "cookie:id", "query:user"])
def test_keys_that_cannot_be_used_are_400(source, bad):
    """A key that is not UTF-8, or too long, is refused, where the endpoint looks for it and nowhere else (SA5)."""
    headers = [(b"x-serve-shard-key", bad), (b"x-user", bad), (b"cookie", b"id=" + bad)]
    with pytest.raises(RequestRejected) as caught:
        key_of(source, headers, b"user=" + bad)
    answer = caught.value.answer
    assert (answer.status, answer.reason) == (400, "rejected")
    assert "the shard key is" in answer.text
    assert key_of("query:other", headers, b"user=" + bad) is None


@pytest.mark.parametrize(
    ("backend", "header"),
    [
        ("canary", b"canary"),
        ("model:v2+gpu@eu_1.0-a~", b"model:v2+gpu@eu_1.0-a~"),
        ("größe", b"gr%C3%B6%C3%9Fe"),
        ("a b/c%d\r\n", b"a%20b%2Fc%25d%0D%0A"),
        ("🦆", b"%F0%9F%A6%86"),
        ("", b""),
    ],
)
def test_clients_learn_who_answered(backend, header):
    """The answer names backend and policy; a name that is no header value is percent-encoded, and can be read back."""
    call = Call(RequestHead("e"), deadline=1.0)
    call.backend, call.policy_version = backend, 17
    assert decision_headers(call) == [(b"x-serve-backend", header), (b"x-serve-policy-version", b"17")]
    assert unquote(header.decode("ascii")) == backend
