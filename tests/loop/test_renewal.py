"""ingress.renewal: files that change are read again, and wrong ones change nothing."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pointsman.ingress.door import Door
from pointsman.ingress.renewal import watched_files
from pointsman.lock.watching import Watched
from pointsman.wire.handover import LockSettings


class Keys:
    """A file of keys, and the door of a server that has begun with it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.json"
        self.write({"ann": {"key": "a"}})
        self.door, self._watched = self.begin()

    def begin(self) -> tuple[Door, Watched]:
        settings = LockSettings(key_file=str(self.path))
        door = Door(settings, cells=lambda name: [0.0, 0.0], own=0, clock=lambda: 0.0)
        (watched,) = watched_files(settings, door, None)
        return door, watched

    def write(self, content: Any) -> None:
        self.path.unlink(missing_ok=True)
        self.path.touch(0o600)
        self.path.write_text(content if isinstance(content, str) else json.dumps(content))

    def look(self) -> None:
        asyncio.run(self._watched.look())


def opens(door: Door, key: str) -> bool:
    headers = [(b"x-api-key", key.encode())]
    return door.ask({"method": "GET", "raw_path": b"/m", "headers": headers}).answer is None


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def test_a_new_file_is_used(keys: Keys) -> None:
    """Keys that are added open, and those that are gone do not, once the file is looked at (ED2)."""
    assert opens(keys.door, "a")
    keys.write({"bob": {"key": "b"}})
    assert [opens(keys.door, key) for key in "ab"] == [True, False]
    keys.look()
    assert [opens(keys.door, key) for key in "ab"] == [False, True]


@pytest.mark.parametrize("wrong", ['{"ann": {"key": "hal', {}, {"ann": {"key": "x", "rate": 0}}, None], ids=str)
def test_a_wrong_file_changes_nothing(keys: Keys, wrong: Any, caplog: Any) -> None:
    """A file that is no JSON, holds no keys, or is gone is told of once; then a right one counts (ED2)."""
    with caplog.at_level(logging.WARNING):
        if wrong is None:
            keys.path.unlink()
        else:
            keys.write(wrong)
        for _ in range(3):
            keys.look()
        assert opens(keys.door, "a")
    (record,) = caplog.records
    assert str(keys.path) in record.getMessage()
    keys.write({"ann": {"key": "right"}})
    keys.look()
    assert [opens(keys.door, key) for key in ("a", "right")] == [False, True]


def test_a_file_that_others_may_read_from_now_on(keys: Keys, caplog: Any) -> None:
    """Permissions count at each reading (ED2)."""
    keys.write({"ann": {"key": "new"}})
    keys.path.chmod(0o644)
    keys.look()
    assert [opens(keys.door, key) for key in ("a", "new")] == [True, False]
    keys.path.chmod(0o600)
    keys.look()
    assert opens(keys.door, "new")


def test_a_server_that_begins_with_a_wrong_file(keys: Keys) -> None:
    """A server that has no keys to fall back on lets nobody in, and not everybody (ED2)."""
    keys.write("{")
    door, watched = keys.begin()
    assert not opens(door, "a")
    assert not opens(door, "")
    keys.write({"ann": {"key": "a"}})
    asyncio.run(watched.look())
    assert opens(door, "a")
