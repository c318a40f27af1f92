"""engine.manager: what a service manager hands over, and what it is told."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pointsman.engine.manager import ServiceManager, take_listener, without_manager

PID = 4711


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def handed_over(held: ExitStack, *sockets: socket.socket) -> int:
    """Copies with numbers in a row, as a service manager leaves them; returns the first number."""
    first = max(map(int, os.listdir("/dev/fd"))) + 10  # no number that this process uses
    for number, one in enumerate(sockets, first):
        os.dup2(one.fileno(), number)
        one.close()
        held.callback(_close, number)
    return first


def _close(number: int) -> None:
    try:
        os.close(number)
    except OSError:
        pass  # taken, and closed already


def variables(count: int, names: str | None = None, pid: int = PID) -> dict[str, str]:
    given = {"LISTEN_PID": str(pid), "LISTEN_FDS": str(count), "PATH": "/bin"}
    return given if names is None else {**given, "LISTEN_FDNAMES": names}


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_the_one_socket_is_taken(held: ExitStack) -> None:
    """Whatever its unit calls it, the only socket is that of HTTP; the variables are gone, for no child is meant
    (PK4)."""
    ours = listening()
    port = ours.getsockname()[1]
    environ = variables(1, "models.socket")
    taken = take_listener(environ, PID, first_fd=handed_over(held, ours))
    assert taken is not None
    with taken:
        assert taken.getsockname()[1] == port
        assert not taken.get_inheritable()
    assert environ == {"PATH": "/bin"}


def test_of_several_the_one_that_is_named_http(held: ExitStack) -> None:
    """A unit may have more sockets; those that are for nothing here are closed (PK4)."""
    others = [listening(), listening()]
    ours = listening()
    port = ours.getsockname()[1]
    first = handed_over(held, others[0], ours, others[1])
    taken = take_listener(variables(3, "a:http:b"), PID, first_fd=first)
    assert taken is not None
    with taken:
        assert taken.getsockname()[1] == port
    for number in (first, first + 2):
        with pytest.raises(OSError):
            os.fstat(number)


@pytest.mark.parametrize(
    "environ",
    [{}, variables(0), variables(1, pid=PID + 1), {"LISTEN_FDS": "1"}, {"LISTEN_PID": str(PID), "LISTEN_FDS": "one"}],
)
def test_nothing_is_taken_that_is_for_nobody_or_another(environ: dict[str, str]) -> None:
    """Variables that came down from a parent which systemd had started are not for me (PK4)."""
    assert take_listener(dict(environ), PID) is None


def test_what_cannot_be_used_is_refused(held: ExitStack) -> None:
    """A unit with Accept=yes, a datagram or Unix socket, or several without the name: one sentence says what is wrong
    (PK4)."""
    unix = socket.socket(socket.AF_UNIX)
    connected, other = socket.socketpair()
    held.enter_context(other)
    fresh = socket.socket()
    cases = [
        ([listening(), listening()], "a:b", "2 sockets were handed over"),
        ([listening(), listening()], "http:http", "hand over one, or name one of them 'http'"),
        ([unix], "http", "AF_UNIX, not TCP"),
        ([socket.socket(type=socket.SOCK_DGRAM)], "http", "not TCP"),
        ([connected], "http", "not TCP"),
        ([fresh], "http", "Accept=no"),
    ]
    for sockets, names, said in cases:
        with pytest.raises(ValueError, match=said):
            take_listener(variables(len(sockets), names), PID, first_fd=handed_over(held, *sockets))


def test_children_are_not_told_of_the_manager() -> None:
    """User code that looks for NOTIFY_SOCKET or LISTEN_FDS finds none: both are for one process alone (PK4)."""
    given = {**variables(1, "http"), "NOTIFY_SOCKET": "/run/x"}
    assert without_manager(given) == {"PATH": "/bin"}
    assert "NOTIFY_SOCKET" in given


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_is_told(abstract: bool) -> None:
    """systemd learns when the instance is ready and when it ends, at a path or in the abstract name space (PK4)."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        name = f"{folder}/notify"
        heard.bind(f"\0{name}" if abstract else name)
        environ = {"NOTIFY_SOCKET": f"@{name}" if abstract else name}
        manager = ServiceManager.of(environ)
        assert not environ
        manager.ready("Serving at http://127.0.0.1:8000")
        assert heard.recv(1000) == b"READY=1\nSTATUS=Serving at http://127.0.0.1:8000"
        manager.stopping()
        assert heard.recv(1000).startswith(b"STOPPING=1\n")


def test_a_manager_that_is_not_there_keeps_nobody_from_serving(tmp_path: Path) -> None:
    """No manager, one that has gone, or a name that is none: nothing happens (PK4)."""
    for address in ("", str(tmp_path / "gone"), "relative", "vsock:2:9"):
        ServiceManager(address).ready("Serving")
