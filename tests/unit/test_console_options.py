"""Where the console is, and what it asks: what `start`, the command line and a configuration file take."""

from __future__ import annotations

import errno
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pointsman as serve
from pointsman.cli.foreground import with_other_port
from pointsman.cli.main import app
from pointsman.cli.options import Given
from pointsman.client.listening import DEFAULT_CONSOLE_PORT, DefaultPort, console_settings
from pointsman.config import ConsoleOptions, parse_console_options
from pointsman.console.guard import Guard
from pointsman.engine.listening import listen_for_console
from pointsman.flags import START_FLAGS, words_of
from pointsman.wire.handover import ConsoleSettings
from tests.certificates import VARIABLES, make_certificate, needs_openssl

TOKENS = "anna operate 0123456789abcdef\n"


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.touch(0o600)
    path.write_text(TOKENS)
    return str(path)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": "0.0.0.0"}, "host of ConsoleOptions is '0.0.0.0', which other machines .* needs token_file and"),
        ({"host": "10.0.0.7", "token_file": "t"}, "needs cert and key .or plain"),
        ({"host": "shop.example.com", "plain": True}, "needs token_file$"),
        ({"key": "k.pem"}, "key of ConsoleOptions is 'k.pem', and the certificate, cert, is missing"),
        ({"cert": "c.pem", "plain": True}, "plain says that there is no TLS"),
        ({"hots": "::1"}, "ConsoleOptions has no field 'hots'; did you mean 'host'"),
        ({"host": ""}, "host of ConsoleOptions is '', but it is empty"),
        ({"port": 8070}, "ConsoleOptions has no field 'port'"),
        ({"plain": 1}, "plain of ConsoleOptions is 1, but"),
        ({"read_only": "yes"}, "read_only of ConsoleOptions is 'yes', but"),
        ({"allowed_hosts": ["*.example.com"]}, "allowed_hosts of .* said in full"),
    ],
)  # fmt: skip
def test_a_console_that_others_reach_is_locked(options: dict[str, Any], told: str) -> None:
    """I put the page on another address than the loopback, and have forgotten tokens or TLS: one sentence says what is
    missing, and nothing was started (AD2)."""
    with pytest.raises(ValueError, match=told):
        parse_console_options(options)


@pytest.mark.parametrize(
    "options",
    [
        None,
        {"host": "127.0.0.2"},
        {"host": "::1", "read_only": True},
        {"host": "0.0.0.0", "token_file": Path("t"), "cert": Path("c.pem"), "key": "k.pem"},
        {"host": "0.0.0.0", "token_file": "t", "plain": True, "allowed_hosts": ["console.example.com"]},
        ConsoleOptions(host="localhost"),
    ],
)
def test_what_a_console_may_be(options: Any) -> None:
    """On the loopback nothing is needed; elsewhere a token file, and certificates or something in front (AD2)."""
    parse_console_options(options)


def test_there_is_none_by_default() -> None:
    """In Python there is no console unless I say a port; options alone are a mistake (AD2)."""
    assert console_settings(None, None) == (None, {"console_port": -1})
    with pytest.raises(ValueError, match="console_options were given, and there is no console"):
        serve.start(console_options={"read_only": True})
    for port, kind in ((70000, ValueError), (True, TypeError), ("8070", TypeError)):
        with pytest.raises(kind, match="console_port"):
            serve.start(console_port=port)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="console_options must be a dict or ConsoleOptions"):
        serve.start(console_port=0, console_options=["::1"])  # type: ignore[arg-type]


@needs_openssl
def test_files_are_read_before_anything_starts(tmp_path: Path, token_file: str) -> None:
    """A file of tokens or certificates that cannot be used is told at the start, not in a log (AD2, AD3, S10)."""
    cert, key = (make_certificate(tmp_path)[name] for name in VARIABLES[:2])
    empty = tmp_path / "empty"
    empty.touch(0o600)
    for options, told in (
        ({"token_file": str(tmp_path / "none")}, "cannot be read"),
        ({"token_file": str(empty)}, "no token in it"),
        ({"cert": key, "key": key}, "holds no certificate"),
    ):
        with pytest.raises(ValueError, match=told):
            console_settings(0, options)
    settings, said = console_settings(0, {"token_file": token_file, "cert": cert, "key": key, "read_only": True})
    assert settings is not None
    assert settings.tls is not None
    assert (settings.token_file, settings.tls.cert, settings.read_only) == (token_file, cert, True)
    assert words_of(START_FLAGS, said) == (
        *("--console-port", "0", "--console-token-file", token_file, "--console-cert", cert, "--console-key", key),
        "--console-read-only",
    )
    assert TOKENS.split()[2] not in repr(settings) + repr(said)


def test_the_command_that_starts_it_again_has_its_console() -> None:
    """`pointsman stop` says how the instance comes back: with the same console, or with none (AD2, IN12)."""
    for port, options, words in (
        (None, None, "--console-port -1"),
        (DEFAULT_CONSOLE_PORT, None, ""),
        (8070, {"host": "::1", "allowed_hosts": ["a", "b"]}, "--console-port 8070 --console-host ::1"
         " --console-allowed-host a --console-allowed-host b"),
    ):  # fmt: skip
        _, said = console_settings(port, options)
        assert words_of(START_FLAGS, said) == tuple(words.split())


def test_a_port_in_use(caplog: pytest.LogCaptureFixture) -> None:
    """The default port is taken by another instance: mine has its page at a free one, and a line says so. A port that I
    have asked for is an error that names it, and the option that gives another (AD2, IN1)."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings, _ = console_settings(DefaultPort(port), None)
        assert settings is not None
        with caplog.at_level(logging.WARNING), listen_for_console(settings) as listener:
            other = listener.getsockname()[1]
        assert caplog.messages == [f"port {port} is in use, so the console is at port {other}"]
        settings, _ = console_settings(port, None)
        assert settings is not None
        with pytest.raises(OSError, match=f"port {port}: Address already in use") as raised:
            listen_for_console(settings)
        assert raised.value.errno == errno.EADDRINUSE
        assert "--console-port" in str(with_other_port(raised.value, Given({}, {"console_port": port})))


def test_a_number_that_no_port_has() -> None:
    """`pointsman console --port 70000` is bad usage, and no traceback (AD2)."""
    assert CliRunner().invoke(app, ["console", "--port", "70000"]).exit_code == 2


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8070"),
        ("::1", "http://[::1]:8070"),
        ("0.0.0.0", "http://127.0.0.1:8070"),
        ("::", "http://[::1]:8070"),
        ("shop.example.com", "http://shop.example.com:8070"),
    ],
)
def test_the_link_is_one_that_opens(host: str, url: str) -> None:
    """A page that listens on every address is shown at one that a browser here opens (AD2)."""
    assert ConsoleSettings(host, 8070).url == url


def test_the_names_of_a_console() -> None:
    """It answers to its own address and to the names that a proxy passes on; every address is no name (AD2, S18)."""
    for host, names in (("10.0.0.7", ("10.0.0.7", "a.example")), ("fe80::1%eth0", ("fe80::1", "a.example"))):
        assert ConsoleSettings(host, 8070, hosts=("a.example",)).names == names
        Guard(names)
    assert ConsoleSettings("0.0.0.0", 8070).names == ()
