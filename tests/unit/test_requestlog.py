"""What is said of single requests, and where their time went."""

from __future__ import annotations

import json
import logging

import pytest

from pointsman.context import CallScope, call_scope
from pointsman.incoming import RequestHead
from pointsman.ingress import exchange
from pointsman.ingress.exchange import RequestLog, breakdown_ms
from pointsman.routing.call import Call
from pointsman.telemetry.logs import JSONFormatter, TextFormatter, escaped, head_of, log_failure
from pointsman.telemetry.values import TALLY_WIDTH, TallyValues


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(exchange.time, "monotonic", lambda: 1010.0)
    return 1010.0


def call(**timing: float) -> Call:
    made = Call(RequestHead("e"), deadline=0.0)
    made.backend = "b"
    for name, value in timing.items():
        setattr(made, name, value)
    return made


def over(log: RequestLog, seconds: float, made: Call | None = None, target: bytes = b"/x", query: bytes = b"") -> None:
    scope = {"method": "GET", "raw_path": target, "query_string": query}
    log.record(scope, made, began=1010.0 - seconds, status=200, outcome="delivered", request_id="id1")


def test_a_sample_of_requests_is_logged(now, caplog):
    """A tenth of all requests is asked for, and those whose draw is below a tenth get a line."""
    draws = iter([0.05, 0.5, 0.0999, 0.1])
    log = RequestLog(0.1, None, draw=lambda: next(draws))
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            over(log, 0.002)
    assert [record.name for record in caplog.records] == ["access"] * 2
    assert caplog.records[0].getMessage() == "GET /x -> 200 delivered in 2.0 ms"
    assert head_of(TextFormatter().format(caplog.records[0])).request_ids == {"id1"}


def test_slow_requests_say_where_their_time_went(now, caplog):
    """Of three requests the one over a second gets a line, with queue, batch wait, processing and network."""
    log = RequestLog(0.0, 1.0)
    made = call(sent_at=1008.25, waited_us=300_000, ran_us=1_200_000)
    for seconds in (0.5, 0.999, 2.0):
        over(log, seconds, made)
    [record] = caplog.records
    assert "2000.0 ms (queue 250.0, batch wait 300.0, processing 1200.0, network 250.0)" in record.getMessage()
    assert record.fields["breakdown_ms"] == {
        "queue": 250.0,
        "batch wait": 300.0,
        "processing": 1200.0,
        "network": 250.0,
    }


def test_slow_requests_say_what_is_usual(now, caplog):
    """One took 2 s: the line says that the others of its backend take a tenth of a second; after a few only."""
    log = RequestLog(0.0, 1.0)
    made = call(sent_at=1008.25)
    made.tally = TallyValues(memoryview(bytearray(8 * TALLY_WIDTH)).cast("d"), 0)
    for requests in (19, 1):
        for _ in range(requests):
            made.tally.count(0.1, False)
        over(log, 2.0, made)
    few, many = caplog.records
    assert "usual" not in few.getMessage()
    assert "usual_ms" not in few.fields
    assert "usual: p50 " in many.getMessage()
    assert many.fields["usual_ms"]["p99"] == pytest.approx(100, rel=0.02)
    assert many.fields["usual_ms"]["count"] == 20


def test_slow_requests_do_not_flood_the_log(now, caplog):
    """When everything is slow, ten lines a second say so (H10)."""
    log = RequestLog(0.0, 1.0)
    for _ in range(100):
        over(log, 2.0)
    assert len(caplog.records) == 10


def test_what_never_left_has_no_breakdown():
    """A request that was refused before it was sent has no parts to show."""
    assert breakdown_ms(None, 0.0, 1.0) == {}
    assert breakdown_ms(call(), 0.0, 1.0) == {}


def test_targets_cannot_forge_lines(now, caplog):
    """Whatever bytes a client sends as its target, the log has one line of printable ASCII (H10)."""
    log = RequestLog(1.0, None)
    with caplog.at_level(logging.INFO):
        over(log, 0.1, target=b"/a\r\nINFO fake: \x1b[31m\xe2\x80\xa8\\", query=b"q=\x00\xff")
    text = caplog.records[0].getMessage()
    assert text.isprintable()
    assert text.isascii()
    assert "/a\\x0d\\x0aINFO fake: \\x1b[31m\\xe2\\x80\\xa8\\x5c?q=\\x00\\xff" in text
    assert (
        escaped(bytes(range(0x20, 0x7F)).replace(b"\\", b"")) == bytes(range(0x20, 0x7F)).replace(b"\\", b"").decode()
    )


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("mine", logging.WARNING, "f.py", 1, message, (), None)
    vars(made).update(fields)
    return made


def test_json_lines_are_one_object_each():
    """Line breaks, quotes and objects that are no JSON stay inside one line, which any tool can read."""
    line = JSONFormatter("replica").format(record('two\nlines "quoted"\u2028', request_id="id1", fields={"x": {1}}))
    assert "\n" not in line
    assert line.isascii()
    read = json.loads(line)
    assert (read["level"], read["logger"], read["process"], read["request_id"]) == ("WARNING", "mine", "replica", "id1")
    assert read["message"] == 'two\nlines "quoted"\u2028'
    assert read["x"] == "{1}"
    assert line.startswith('{"level":"WARNING","logger":"mine"')


def test_json_lines_keep_tracebacks():
    """An exception is a field, so that its line is still one object."""
    try:
        raise ValueError("why")
    except ValueError as error:
        made = record("failed", exc_info=(ValueError, error, error.__traceback__))
    assert "ValueError: why" in json.loads(JSONFormatter("ingress").format(made))["exception"]


@pytest.mark.parametrize(("request_id", "line"), [("", "WARNING mine: said"), ("id1", "WARNING mine: [id1] said")])
def test_text_lines_name_time_and_request(request_id, line):
    """Each line says when, to the millisecond and in UTC; inside a request its id stands in it, too."""
    made = record("said", request_id=request_id, created=1795858200.1239)
    assert TextFormatter().format(made) == f"2026-11-28T09:30:00.123Z {line}"


def test_further_lines_of_a_message_are_indented():
    """A message of several lines, or with a traceback, cannot be taken for several, whatever is in it."""
    try:
        raise ValueError("why\n2026-11-28T09:30:00.123Z ERROR forged: line")
    except ValueError as error:
        made = record("one\ntwo\n", exc_info=(ValueError, error, error.__traceback__))
    first, *rest = TextFormatter().format(made).split("\n")
    assert head_of(first) is not None
    assert rest[0] == "    two"
    assert all(line.startswith("    ") for line in rest)
    assert not any(head_of(line) for line in rest)


@pytest.mark.parametrize("formatter", [TextFormatter(), JSONFormatter("replica")])
@pytest.mark.parametrize("level", ["WARNING", "Level 15", "custom"])
@pytest.mark.parametrize("logger", ["mine", "a:b", "päth/x"])
def test_heads_of_lines_are_read_back(formatter, level, logger):
    """Whoever reads a log finds time, level and request of each line, in both formats."""
    made = record("[other] said", fields={"request_ids": ["id1", "id2"]}, created=1795858200.1239)
    made.levelname, made.name = level, logger
    head = head_of(formatter.format(made))
    assert head is not None
    assert (head.time, head.level, head.request_ids) == ("2026-11-28T09:30:00.123", level, {"id1", "id2"})


@pytest.mark.parametrize(
    "line", ["", "printed", "{", '{"level":"INFO"}', '{"level":1,', "2026-11-28 09:30:00 INFO mine: x", "    indented"]
)
def test_what_code_prints_has_no_head(line):
    """Lines that no logger has written are told apart, also those that look like JSON."""
    assert head_of(line) is None


@pytest.mark.parametrize("fields", ["text", None, 5])
def test_users_may_have_fields_of_the_same_names(fields):
    """Code that logs with an `extra` of its own is not in the way of ours."""
    made = record("said", fields=fields, request_id="mine")
    assert "[mine] said" in TextFormatter().format(made)
    assert json.loads(JSONFormatter("replica").format(made))["request_id"] == "mine"


def test_scopes_hand_on_headers():
    """The scope of a call has its headers, so that handles find what tracing tools need."""
    token = call_scope.set(CallScope(1.0, "id1", [(b"traceparent", b"00-a-b-01")]))
    scope = call_scope.get()
    call_scope.reset(token)
    assert scope is not None
    assert scope.headers == [(b"traceparent", b"00-a-b-01")]


def test_a_failure_of_user_code_is_one_entry_in_both_formats(caplog):
    """Its traceback is below the line where lines are text, and a field where they are JSON; no control character is
    left in either (H10)."""
    log_failure(logging.getLogger("mine"), "b#abcdef raised\x1b", "Traceback:\n\tValueError\r", request_ids=["id1"])
    [made] = caplog.records
    assert (
        TextFormatter().format(made).endswith("ERROR mine: [id1] b#abcdef raised?\n    Traceback:\n        ValueError")
    )
    read = json.loads(JSONFormatter("replica").format(made))
    assert (read["message"], read["exception"]) == ("b#abcdef raised?", "Traceback:\n    ValueError")
