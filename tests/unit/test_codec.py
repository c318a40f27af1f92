"""ingress.codec: what HTTP clients are told about calls that failed; and the hook on which the direct way stands."""

from __future__ import annotations

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pointsman.exceptions import (
    BackpressureError,
    CallRejectedError,
    DeadlineExceededError,
    ReplicaDiedError,
    ServeException,
    UserCodeError,
)
from pointsman.ingress.budget import WarningBudget
from pointsman.ingress.codec import RequestRejected, answer_for, read_headers, request_id_of, wants_json
from pointsman.routing.router import NoSuchEndpointError


@pytest.mark.parametrize(
    ("error", "status", "reason", "may_retry"),
    [
        (BackpressureError("full"), 503, "queue_full", True),
        (DeadlineExceededError("late", started=False), 503, "deadline", True),
        (DeadlineExceededError("late", started=True), 504, "deadline", False),
        (ReplicaDiedError("died"), 502, "replica_died", False),
        (NoSuchEndpointError("none"), 404, "no_such_endpoint", False),
        (CallRejectedError("closed"), 400, "rejected", False),
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
    with pytest.raises(RequestRejected) as caught:
        read_headers([(b"x-serve-call-method", b"\xff")])
    assert caught.value.answer.status == 400


def test_uvicorn_has_the_hook_of_the_direct_way():
    """Without this hook every request goes the slow way through ASGI: correct, and a third slower."""
    assert callable(getattr(HttpToolsProtocol, "_start_asgi_task", None))


def test_warnings_have_a_budget():
    """Under overload the log says how much it held back instead of drowning its reader (H10)."""
    budget = WarningBudget()
    assert [budget.take("full", 1.0) for _ in range(12)] == [0] * 10 + [None, None]
    assert budget.take("other", 1.5) == 0
    assert budget.take("full", 2.0) == 2
    assert budget.take("full", 2.1) == 0
