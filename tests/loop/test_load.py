"""``pointsman load`` against a server whose answers are known: its own client for HTTP, and what the command prints."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pointsman.cli import load as command
from pointsman.cli.main import app
from pointsman.load import network, tally
from pointsman.load.requests import Message
from pointsman.load.running import Plan, run
from pointsman.load.target import read_target
from tests.certificates import VARIABLES, make_certificate, needs_openssl
from tests.conftest import wait_until
from tests.loop.load_server import KnownServer, known_server


@pytest.fixture(scope="module")
def server() -> Iterator[KnownServer]:
    with known_server() as there:
        yield there


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is, no request counts as late."""
    monkeypatch.setattr(tally, "LATE_S", 1e9)


def say(url: str, *words: str) -> Result:
    return CliRunner().invoke(app, ["load", url, *words], env={"COLUMNS": "200"})


def report(url: str, *words: str) -> dict[str, Any]:
    done = say(url, "--json", *words)
    assert done.exit_code in (0, 1, 3), done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of(server: KnownServer, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ok", "200"), ("/slices", "200"), ("/chunked", "200"), ("/until-close", "200"), ("/close", "200"),
        ("/early-hints", "200"), ("/empty", "204"), ("/moved", "302"), ("/large", "200"),
    ],
)  # fmt: skip
def test_every_form_of_answer_is_read(server: KnownServer, path: str, status: str) -> None:
    """However the server ends an answer, it is counted once, whole; a redirect is not followed (LT1)."""
    found = report(of(server, path), "--rate", "200", "--duration", "0.1")
    assert (found["sent"], found["ok"], found["statuses"], found["errors"]) == (20, 20, {status: 20}, {})
    assert found["mode"] == "open"


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ("/half", {"closed"}), ("/hangs-up", {"closed"}), ("/resets", {"reset"}), ("/garbage", {"malformed"}),
        ("/upgrades", {"malformed"}),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_an_error_of_its_kind(server: KnownServer, path: str, kinds: set[str]) -> None:
    """A connection that ends too early, is reset, or brings no HTTP: told apart, and exit code 1 (LT1, LT2)."""
    done = say(of(server, path), "--rate", "200", "--duration", "0.1", "--json")
    assert done.exit_code == 1
    assert "gave no answer" in done.stderr
    found = json.loads(done.stdout)
    assert (found["sent"], found["ok"], found["statuses"]) == (20, 0, {})
    assert set(found["errors"]) == kinds
    assert sum(found["errors"].values()) == 20


def test_nobody_listens() -> None:
    """Every connection is refused: exit code 1, and it says so (LT2)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = say(f"http://127.0.0.1:{port}/", "--rate", "100", "--duration", "0.1")
    assert done.exit_code == 1
    assert f"127.0.0.1:{port} gave no answer (refused: 10)" in done.stderr
    assert "errors        10 (100 %): refused: 10" in done.stdout


def test_what_takes_too_long(server: KnownServer) -> None:
    """No answer within --timeout is an error, in both loops (LT1)."""
    for words in (("--rate", "50", "--duration", "0.1"), ("--concurrency", "5", "--duration", "0.01")):
        found = report(of(server, "/silent"), *words, "--timeout", "0.2")
        assert (found["ok"], found["errors"]) == (0, {"timeout": 5})


def test_more_than_was_asked_for(server: KnownServer) -> None:
    """A second answer to one request is never taken for that to the next one (LT1)."""
    found = report(of(server, "/too-much"), "--concurrency", "1", "--duration", "0.05")
    assert found["ok"] == found["sent"] > 0


def test_a_body_that_nobody_reads(server: KnownServer, tmp_path: Path) -> None:
    """The server refuses a body of 8 MB by its head, and closes: that is its answer, not an error (LT1)."""
    large = tmp_path / "large"
    large.write_bytes(bytes(8_000_000))
    found = report(of(server, "/unread"), "--rate", "100", "--duration", "0.1", "--body", f"@{large}")
    assert (found["statuses"], found["errors"]) == ({"413": 10}, {})


def test_connections_are_kept() -> None:
    """A closed loop of three has three connections, and answers to HEAD have no body (LT1)."""
    with known_server() as server:
        found = report(of(server, "/head"), "--concurrency", "3", "--duration", "0.1", "--method", "HEAD")
        assert found["mode"] == "closed"
        assert found["ok"] == found["sent"] == len(server.requests) > 3
        assert server.connections == 3


def test_what_is_sent(tmp_path: Path) -> None:
    """Method, body from a file, headers and keys arrive as they were given (LT3)."""
    body = tmp_path / "body"
    body.write_bytes(bytes(range(256)) * 8000)  # more than a socket takes at once
    with known_server() as server:
        words = ("--body", f"@{body}", "--header", "x-a: 1", "-H", "x-b: 2", "--keys", "1", "--method", "put")
        assert report(of(server, "/ok"), "--rate", "50", "--duration", "0.1", *words)["ok"] == 5
        request = server.requests[0]
    assert request.startswith(b"PUT /ok HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\n" + body.read_bytes())
    for line in (b"\r\nx-a: 1\r\n", b"\r\nx-b: 2\r\n", b"\r\nx-serve-shard-key: key-0\r\n"):
        assert line in request


def test_backends_are_told_apart(server: KnownServer) -> None:
    """Each backend's figures, by the header that a Pointsman answer has, with what its tag is really called (LT1)."""
    found = report(of(server, "/ok"), "--rate", "100", "--duration", "0.1")
    assert list(found["backends"]) == ["v 1"]
    assert found["backends"]["v 1"]["ok"] == 10
    assert report(of(server, "/empty"), "--rate", "100", "--duration", "0.1")["backends"] == {}
    table = say(of(server, "/ok"), "--rate", "100", "--duration", "0.1").stdout
    assert "v 1" in table
    assert "100.0 %" in table


def test_expectations_decide(server: KnownServer) -> None:
    """A pipeline fails by exit code 3 when an expectation is missed, and every one of them is said (LT2)."""
    short = ("--rate", "100", "--duration", "0.1")
    assert say(of(server, "/ok"), *short, "--expect", "errors<1%", "--expect", "p99<20s").exit_code == 0
    done = say(of(server, "/busy"), *short, "--expect", "errors<1%", "--expect", "p99<20s")
    assert done.exit_code == 3
    assert "expected errors<1%, but errors were 100%" in done.stderr
    assert "expected p99<20s, but there was no good answer" in done.stderr
    assert "status 503: 10" in done.stdout


def test_a_run_that_cannot_be_trusted(server: KnownServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are sent late: exit code 4, also where an expectation is missed, since the figure says nothing (LT2)."""
    monkeypatch.setattr(tally, "LATE_S", -1.0)
    done = say(of(server, "/ok"), "--rate", "100", "--duration", "0.1", "--expect", "p99<1us")
    assert done.exit_code == 4
    assert "Not trustworthy" in done.stdout
    assert "not trustworthy: over 1 % of the requests were sent 10 ms late" in done.stderr
    assert "expected p99<1us" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rate", "1", "--timeout", "0"), "--timeout must be 0.001 s or more and finite, not 0"),
        (("--rate", "1", "--duration", "inf"), "--duration must be above 0 and finite, not inf"),
        (("--rate", "1", "--method", ""), "method '' is none"),
        (("--rate", "1", "--keys", "2", "--header", "X-Serve-Shard-Key: me"), "leave one of them out"),
        ((), "give either --rate R, for an open loop, or --concurrency N"),
        (("--rate", "1", "--concurrency", "1"), "give either"),
        (("--rate", "0"), "--rate must be above 0"),
        (("--rate", "1", "--duration", "0"), "must be above 0"),
        (("--rate", "1", "--duration", "x"), "is not a duration"),
        (("--rate", "1", "--expect", "fast"), "is no expectation"),
        (("--rate", "1", "--body", "@/no/such/file"), "No such file"),
        (("--rate", "1", "--header", "x"), "is not NAME: VALUE"),
    ],
)
def test_bad_usage(server: KnownServer, words: tuple[str, ...], said: str) -> None:
    """What cannot be meant is refused before anything is sent: exit code 2 (LT1, LT3)."""
    before = len(server.requests)
    done = say(of(server, "/ok"), *words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", "").split())
    assert len(server.requests) == before


def test_more_at_once_than_open_files(server: KnownServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of open files is too low for a closed loop: refused, not counted as the server's fault (LT2)."""
    monkeypatch.setattr(network, "room_for_connections", lambda wanted: 30)
    done = say(of(server, "/ok"), "--concurrency", "31", "--duration", "0.1")
    assert done.exit_code == 2
    assert "--concurrency 31 needs as many open files" in done.stderr


def test_a_file_of_certificates_that_is_none(tmp_path: Path) -> None:
    """The file that I name is missing, or has no certificate: exit code 2 (LT1)."""
    empty = tmp_path / "empty"
    empty.touch()
    for file in (empty, tmp_path / "missing"):
        done = say("https://127.0.0.1:1/", "--rate", "1", "--cacert", str(file))
        assert done.exit_code == 2
        assert "--cacert" in done.stderr


def test_other_machines_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """I mistype a host, and nobody's server is loaded: exit code 2, unless I add --remote (LT3)."""
    done = say("http://192.0.2.1/", "--rate", "1")
    assert done.exit_code == 2
    assert "is not this machine; if you may load it, add --remote" in " ".join(done.stderr.replace("│", "").split())
    ran: list[Plan] = []
    monkeypatch.setattr(command, "_run", lambda plan, expectations, as_json: ran.append(plan))
    assert say("http://192.0.2.1/", "--rate", "1", "--remote").exit_code == 0
    assert ran[0].target.places[0].address == ("192.0.2.1", 80)


def test_ctrl_c_shows_what_was_measured(server: KnownServer) -> None:
    """I have seen enough after a few answers: the figures so far are printed, and the exit code is 130 (LT3)."""
    before = len(server.requests)

    def interrupt() -> None:
        wait_until(lambda: len(server.requests) > before + 5, what="some requests")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    done = say(of(server, "/ok"), "--rate", "100", "--duration", "600", "--json")
    thread.join()
    assert done.exit_code == 130
    found = json.loads(done.stdout)
    assert 3 <= found["ok"] < 60_000
    assert signal.getsignal(signal.SIGINT) is not None


@needs_openssl
def test_https(tmp_path: Path) -> None:
    """Over TLS all is the same; a certificate that nobody vouches for is an error, unless I trust it (LT1)."""
    files = make_certificate(tmp_path / "tls", host="127.0.0.1")
    certificate, key, _ = (files[name] for name in VARIABLES)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    short = ("--rate", "100", "--duration", "0.1")
    with known_server(context) as server:
        url = f"https://127.0.0.1:{server.port}"
        for words in (("--cacert", certificate), ("-k",)):
            assert report(f"{url}/slices", *short, *words)["ok"] == 10
        assert report(f"{url}/large", "--concurrency", "2", "--duration", "0.05", "-k")["ok"] > 0
        assert report(f"{url}/until-close", *short, "-k")["ok"] == 10
        assert report(f"{url}/endless", "--rate", "20", "--duration", "0.1", "--timeout", "0.1", "-k")["ok"] == 0
        done = say(f"{url}/ok", *short)
        assert done.exit_code == 1
        assert "gave no answer (tls: 10); its certificate is not trusted (--cacert FILE" in done.stderr


def test_who_looks_on_gets_samples(server: KnownServer) -> None:
    """A run shows what it does twice a second, and the last figures are those of the report (LT3)."""
    samples = []
    target = read_target(of(server, "/ok"))
    plan = Plan(target, Message("GET"), None, 0.7, 100.0, 0, "constant", 10, 30.0, 0)
    outcome = run(plan, samples.append)
    assert outcome.tally.ok == 70
    assert samples
    assert 0 < samples[0].total_ok <= 70
