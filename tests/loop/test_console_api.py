"""The console's API, asked over ASGI: who may ask, what is refused and how, and changes that are made once."""

from __future__ import annotations

import asyncio
import re
import threading

import pytest
from starlette.datastructures import Headers

from pointsman.console.guard import Guard
from pointsman.console.loglines import LogTail
from pointsman.console.operations import Operations
from pointsman.console.routes import all_calls
from pointsman.exceptions import (
    BackendStartError,
    BusyError,
    ForbiddenError,
    InsufficientResourcesError,
    ServeException,
    StateChangedError,
    TooLargeError,
)
from pointsman.model.tokens import DEPLOY, OPERATE, VIEW
from pointsman.wire.control import InstanceGoneError
from tests.loop.consoles import fake, with_console

__all__ = ["fake"]

SHOP = "/endpoints/shop/traffic"
HALF = {"weights": {"v1": 0.5, "v2": 0.5}}


def test_a_change_says_what_is_in_force_and_its_version(fake):
    """I set traffic by curl, and read what is in force now, with an ETag for my next change (AD5, AD7)."""

    async def test(ask):
        answer = await ask("PUT", SHOP, json=HALF, headers={"if-match": '"7"'})
        assert answer.status_code == 200
        assert answer.headers["etag"] == '"7"'
        assert answer.json()["weights"] == {"v1": 1.0}
        assert fake.asked == [("shop", HALF["weights"], {"shadows": None}, 7, "")]

    with_console(test)


@pytest.mark.parametrize("name", ["a/b ?#%.", "shop"])
def test_any_name_can_stand_in_a_path(fake, name):
    """A name with a slash or a question mark in it is one segment of the path, percent-encoded (AD5)."""
    from urllib.parse import quote

    async def test(ask):
        answer = await ask("GET", f"/endpoints/{quote(name, safe='')}/traffic")
        assert answer.json()["endpoint"] == name

    with_console(test)


HEADERS = [
    {"host": "evil.example"},
    {"host": "evil.example:8070"},
    {"host": "localhost.evil.example"},
    {"host": "localhost:8070@evil.example"},
    {"host": ""},
    {"host": "127.0.0.1.nip.io"},
    {"host": "169.254.169.254"},
    {"host": "[::2]:8070"},
    {"origin": "http://evil.example"},
    {"origin": "https://evil.example:8070"},
    {"origin": "null"},
    {"origin": "http://localhost:8071"},
    {"origin": "http://localhost"},
    {"origin": "http://localhost:8070.evil.example"},
    {"origin": "file://"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    {"host": "evil.example", "origin": "http://evil.example"},
    {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
]


@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: " ".join(f"{n}={v}" for n, v in headers.items()))
def test_pages_of_others_reach_nothing(fake, headers):
    """A page of another site, or a name pointed at my machine, gets a 403 whatever it asks for (AD4, S3, S18)."""

    async def test(ask):
        for method, path in (("GET", "/me"), ("PUT", SHOP), ("GET", "/none"), ("OPTIONS", SHOP)):
            answer = await ask(method, path, headers=headers)
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
        assert not fake.asked

    with_console(test)


@pytest.mark.parametrize("name", ["host", "origin", "authorization", "if-match"])
def test_a_header_that_decides_is_there_once(name):
    """A request that could be read in two ways is read in none (S3)."""
    twice = [(name.encode(), b"localhost")] * 2
    assert repr(name) in Guard().refusal(Headers(raw=[*twice, (b"x", b"y"), (b"x", b"y"), (b"host", b"localhost")]))
    assert not Guard().refusal(Headers(raw=[(b"x", b"y"), (b"x", b"y"), (b"host", b"localhost")]))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "localhost"},
        {"host": "127.0.0.1:1234", "origin": "http://127.0.0.1:1234"},
        {"host": "[::1]:8070"},
        {"host": "Ops.Example", "origin": "https://ops.example", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_its_own_names_lead_to_the_console(fake, headers):
    """The page works by localhost, by the loopback's addresses, and by the name that a proxy has for it (AD4)."""

    async def test(ask):
        assert (await ask("GET", "/me", headers=headers)).status_code == 200

    with_console(test, hosts=("ops.example",))


def test_a_link_on_another_site_opens_the_page(fake):
    """A link in a chat opens the page, though not its API (AD4)."""
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}

    async def test(ask):
        assert (await ask("GET", "//", headers=link)).status_code == 200
        framed = await ask("GET", "//", headers={**link, "sec-fetch-dest": "iframe"})
        assert framed.status_code == 403

    with_console(test)


def test_every_answer_forbids_what_it_does_not_need(fake):
    """No answer is cached, framed, sniffed, or may run a script but its own; none sets a cookie (CR6, S18)."""

    async def test(ask):
        for method, path in (("GET", "/me"), ("GET", "//"), ("GET", "//none"), ("GET", "/none"), ("PATCH", "/me")):
            headers = (await ask(method, path)).headers
            assert headers["cache-control"] == ("no-cache" if path == "//" else "no-store")
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "require-trusted-types-for 'script'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert "set-cookie" not in headers

    with_console(test)


def test_only_a_token_opens_the_api(fake):
    """Without a token only page files, /healthz and openapi.json answer; all else is a 401 that says what to do (AD3,
    AD4)."""

    async def test(ask):
        for headers in ({"authorization": ""}, {"authorization": "Basic operate"}, {"authorization": "Bearer wrong"}):
            for method, path in (("GET", "/me"), ("PUT", SHOP), ("GET", "/logs"), ("GET", "/config")):
                answer = await ask(method, path, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.headers["content-type"] == "application/problem+json"
            for path in ("//", "//healthz", "/openapi.json"):
                assert (await ask("GET", path, headers=headers)).status_code == 200
        assert (await ask("GET", "/me?token=operate", headers={"authorization": ""})).status_code == 401

    with_console(test)


def test_every_call_asks_who_it_is(fake):
    """No call of the table is open to a stranger, to a role that is too small, to a page of another site, or, where it
    changes something, to whoever uses a console that only reads (AD3, AD4, CR4)."""
    calls = [call for call in all_calls(Operations(), LogTail(dict)) if not call.is_open]
    lesser = {OPERATE: VIEW, DEPLOY: OPERATE}

    async def test(ask):
        for call in calls:
            path = re.sub(r"\{\w+\}", "shop", call.path)
            assert (await ask(call.method, path, headers={"authorization": ""})).status_code == 401, path
            foreign = {"origin": "http://evil.example"}
            assert (await ask(call.method, path, role="deploy", headers=foreign)).status_code == 403, path
            if call.role in lesser:
                assert (await ask(call.method, path, role=lesser[call.role], json={})).status_code == 403, path
            if call.is_change:
                assert (await ask(call.method, path, role="deploy", json={})).status_code == 403, path
        assert len(calls) > 25
        assert not fake.asked

    with_console(test, read_only=True)


JUNK = [b"", b"null", b"[]", b'{"keys": [1]}', b'{"weights": {"": NaN}}', b'{"version": 1e999}', b"\x00", b'"\\ud800"']


def test_no_junk_is_a_mistake_of_the_console(fake):
    """Whatever stands in a path, behind the ? or in a body, the answer is a problem that says what was wrong (AD6)."""
    calls = [call for call in all_calls(Operations(), LogTail(dict)) if call.path not in ("/config", "/config/diff")]
    names = ("%00", "%ff", "%2e%2e", "%F0%9F%98%80", "a" * 300, "%", "%zz", "")

    async def test(ask):
        for call in calls:
            for number, name in enumerate(names):
                path = re.sub(r"\{\w+\}", name, call.path)
                body = JUNK[number % len(JUNK)]
                headers = {"content-type": "application/json"}
                answer = await ask(call.method, f"{path}?x%5B=%ff", role="deploy", content=body, headers=headers)
                assert 400 <= answer.status_code < 500 or call.is_open, (call.path, name)
                answer = await ask(call.method, path, role="deploy", content=body, headers=headers)
                assert answer.status_code != 500, (call.path, name, answer.text)

    with_console(test)


def test_a_role_is_asked_before_the_body_is_read(fake):
    """Who may not change anything is told so, whatever is in the body (AD3, CR4)."""

    async def test(ask):
        answer = await ask("PUT", SHOP, role="view", content=b"{", headers={"content-type": "application/json"})
        assert answer.status_code == 403
        assert "anna the view" in answer.json()["detail"]
        assert (await ask("PUT", "/config", role="operate", json={})).status_code == 403
        assert (await ask("GET", SHOP, role="view")).status_code == 200

    with_console(test)


def test_a_console_that_only_reads_refuses_every_change(fake):
    """With --console-read-only the best of tokens changes nothing (CR4)."""

    async def test(ask):
        answer = await ask("PUT", SHOP, role="deploy", json=HALF)
        assert answer.status_code == 403
        assert "only reads" in answer.json()["detail"]
        assert (await ask("GET", "/me", role="deploy")).json()["read_only"] is True
        assert (await ask("POST", f"{SHOP}/preview", role="view", json={})).status_code == 422
        assert not fake.asked

    with_console(test, read_only=True)


@pytest.mark.parametrize(
    ("given", "status", "word"),
    [
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "no JSON"),
        ({"content": b"\xff", "headers": {"content-type": "application/json"}}, 400, "no JSON"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "no JSON"),
        ({"content": b"weights=1"}, 415, "application/json, and has no Content-Type"),
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "text/plain"),
        ({"content": b" " * (1 << 20) + b"{}", "headers": {"content-type": "application/json"}}, 413, "1 MiB"),
        ({"json": {"weihgts": {}}}, 422, "weihgts"),
        ({"json": []}, 422, "array"),
        ({"json": {"weights": {"v1": "1"}}}, 422, "openapi.json"),
        ({"json": {"weights": {"v1": True}}}, 422, "weights"),
        ({"json": {}}, 422, "neither weights nor shadows"),
        ({"json": HALF, "headers": {"if-match": "7"}}, 400, "If-Match"),
        ({"json": HALF, "headers": {"if-match": '"a"'}}, 400, "If-Match"),
        ({"json": HALF, "headers": {"idempotency-key": "a b"}}, 400, "Idempotency-Key"),
        ({"json": HALF, "headers": {"x-long": "a" * 17_000}}, 431, "16384 bytes"),
        ({"json": HALF, "params": {"weihgts": 1}}, 422, "weihgts"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(fake, given, status, word):
    """A mistake in my request is one sentence that names it, and nothing has changed (AD6)."""

    async def test(ask):
        answer = await ask("PUT", SHOP, **given)
        problem = answer.json()
        assert (answer.status_code, problem["status"]) == (status, status)
        assert answer.headers["content-type"] == "application/problem+json"
        assert word in problem["detail"]
        assert problem["title"]
        assert not fake.asked

    with_console(test)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("a weight"), 422),
        (TypeError("a type"), 422),
        (StateChangedError("another version"), 412),
        (BusyError("an apply"), 409),
        (InsufficientResourcesError("no room"), 409),
        (BackendStartError("its constructor"), 422),
        (TooLargeError("too large"), 413),
        (ForbiddenError("revoked meanwhile"), 403),
        (InstanceGoneError("the instance has ended"), 503),
        (TimeoutError("no answer within 5 s"), 503),
        (ServeException("something else"), 409),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_the_controller_refuses_keeps_its_words(fake, error, status):
    """What the command line would say I read as problem+json, with the status that belongs to it (AD6)."""
    fake.failure = error

    async def test(ask):
        answer = await ask("PUT", SHOP, json=HALF)
        assert answer.status_code == status
        assert str(error) in answer.json()["detail"]

    with_console(test)


def test_what_is_not_there_is_a_404(fake):
    """A path or an object that does not exist is a 404 that says what there is, a wrong method a 405 (AD6)."""
    fake.failure = ValueError("endpoint 'shopp' does not exist")

    async def test(ask):
        for method, path in (
            ("PUT", "/endpoints/shopp/traffic"),
            ("GET", "/endpoints/shopp/traffic"),
            ("GET", "/endpoints/shop/rollout"),
            ("GET", "/nothing"),
            ("GET", "/operations/none"),
            ("GET", ""),
        ):
            assert (await ask(method, path, json=HALF)).status_code == 404, path
        answer = await ask("DELETE", SHOP)
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, PUT"

    with_console(test)


def test_a_mistake_of_the_console_shows_nothing_of_itself(fake, caplog):
    """An error that nobody foresaw is a 500 without its text, which the log has (AD6)."""
    fake.failure = RuntimeError("secret")

    async def test(ask):
        answer = await ask("PUT", SHOP, json=HALF)
        assert answer.status_code == 500
        assert "secret" not in answer.text

    with_console(test)
    assert "secret" in caplog.text


def test_a_key_belongs_to_one_change(fake):
    """The same Idempotency-Key for another change is refused: it would not be carried out (AD7)."""
    key = {"idempotency-key": "monday-1"}

    async def test(ask):
        for _ in range(2):
            assert (await ask("PUT", SHOP, json=HALF, headers=key)).status_code == 200
        other = await ask("PUT", SHOP, json={"shadows": {}}, headers=key)
        assert other.status_code == 422
        assert "another change" in other.json()["detail"]
        assert (await ask("PUT", SHOP, role="deploy", json={"shadows": {}}, headers=key)).status_code == 200
        assert [asked[-1] for asked in fake.asked] == ["monday-1"] * 3

    with_console(test)


def test_a_change_that_lasts_goes_on_behind_a_202(fake):
    """A change that takes long is answered with 202 and the path of its result, which comes there (AD7)."""
    going = threading.Event()
    fake.gate = staticmethod(going.wait)

    async def test(ask):
        begun = await ask("PUT", SHOP, json=HALF)
        assert begun.status_code == 202
        where = begun.headers["location"].removeprefix("/api/v1")
        assert begun.json() == {"id": where.rpartition("/")[2], "state": "running"}
        assert (await ask("GET", where, role="view")).status_code == 202
        assert not fake.asked
        going.set()
        answer = await until_done(ask, where)
        assert answer.json()["version"] == 7
        assert len(fake.asked) == 1

    with_console(test, wait_s=0.05)


def test_a_change_that_lasts_and_fails_says_so_at_its_path(fake):
    """What was refused after the 202 is the problem that its path answers (AD6, AD7)."""
    going = threading.Event()
    fake.gate, fake.failure = staticmethod(going.wait), BackendStartError("its constructor failed")

    async def test(ask):
        where = (await ask("PUT", SHOP, json=HALF)).headers["location"].removeprefix("/api/v1")
        going.set()
        assert (await until_done(ask, where)).status_code == 422

    with_console(test, wait_s=0.05)


def test_too_many_changes_at_once_are_put_off(fake):
    """Changes that hang cannot pile up: the next one is told to come again (AD6, S18)."""
    going = threading.Event()
    fake.gate = staticmethod(going.wait)

    async def test(ask):
        begun = await asyncio.gather(*(ask("PUT", SHOP, json=HALF) for _ in range(20)))
        statuses = sorted(answer.status_code for answer in begun)
        assert statuses == [202] * 16 + [503] * 4
        assert (await ask("GET", SHOP)).status_code == 200
        going.set()

    with_console(test, wait_s=0.05)


async def until_done(ask, where):
    while (answer := await ask("GET", where)).status_code == 202:
        await asyncio.sleep(0.01)
    return answer
