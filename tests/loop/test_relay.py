"""Where the controller is, told by the host of a process that cannot ask the cluster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pointsman.engine.relay import answer, ask_relay, locator_by_relay
from pointsman.wire.stream import listen_private

Hosted = Callable[..., str]


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    """Serves a relay that gives these answers in turn, the last one for ever; an error stands for not now."""
    listeners = []

    def host(*answers: str | ConnectionError | None) -> str:
        left = list(answers)

        def locate() -> str | None:
            said = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(said, ConnectionError):
                raise said
            return said

        path = str(tmp_path / "host")
        listeners.append(listen_private(path))
        threading.Thread(target=answer, args=(listeners[-1], locate), daemon=True).start()
        return path

    return host


def test_the_address_as_the_host_knows_it(hosted: Hosted) -> None:
    """A replica of an environment without Ray finds the controller, and finds it again elsewhere (IN9, FT1)."""
    path = hosted("tcp:127.0.0.1:1", ConnectionError(), "tcp:127.0.0.1:2")
    locate = locator_by_relay(path)
    assert asyncio.run(locate()) == "tcp:127.0.0.1:1"
    assert asyncio.run(locate()) == "tcp:127.0.0.1:2", "asked again while there was none"


def test_the_instance_has_ended(hosted: Hosted) -> None:
    """When the instance is gone, its replicas learn that and end (IN4)."""
    assert asyncio.run(locator_by_relay(hosted(None))()) is None


def test_asked_from_a_thread(hosted: Hosted, tmp_path: Path) -> None:
    """The health thread asks too; that nobody knows, or nobody is there, is an error to try again after."""
    path = hosted("/socket", ConnectionError(), None)
    assert ask_relay(path) == "/socket"
    for _ in range(2):
        with pytest.raises(ConnectionError, match="nowhere"):
            ask_relay(path)
    with pytest.raises(OSError):
        ask_relay(str(tmp_path / "nobody"))
