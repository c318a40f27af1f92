"""The files of the state around an upgrade: kept, put back, and the machine stops anywhere in between."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pointsman.engine.aside import bring_back, finish_return, keep_state
from pointsman.engine.folder import forget_state

OLD = {"state.db": "old", "state.db-wal": "old log", "state.db.ack": "old number"}
NEW = {"state.db": "new", "state.db.ack": "new number", "state.db.copy": "new"}


def put(folder: Path, files: dict[str, str]) -> None:
    for path in folder.glob("state.db*"):
        path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)


def found(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path, OLD)
    keep_state(tmp_path)
    put(tmp_path, NEW)
    return tmp_path


def test_the_state_comes_back(folder: Path) -> None:
    """The new release could not come up: the files are those of before, and nothing else is left (PK6)."""
    bring_back(folder)
    assert found(folder) == OLD
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []


class StopError(BaseException):
    """The machine stops."""


def stops(real: Callable[..., object], after: Iterator[None]) -> Callable[..., object]:
    def call(*given: object, **named: object) -> object:
        if next(after, 0) == 0:
            raise StopError
        return real(*given, **named)

    return call


def test_the_machine_stops_on_the_way_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it stops, the next start finds the state of before as a whole, or still that of after (PK6)."""
    for steps in range(40):
        put(folder, NEW)
        for path in folder.glob("going-back*"):
            path.rename(folder / "before-upgrade")
        if not (folder / "before-upgrade").exists():
            put(folder, OLD)
            keep_state(folder)
            put(folder, NEW)
        with monkeypatch.context() as patch:
            left = iter([None] * steps)
            for name in ("rename", "replace", "link", "unlink", "fsync"):
                patch.setattr(os, name, stops(getattr(os, name), left))
            try:
                bring_back(folder)
            except StopError:
                pass
            else:
                break
        finish_return(folder)
        assert found(folder) == (NEW if steps == 0 else OLD), steps
    else:
        pytest.fail("it never came to its end")
    assert steps > 8


def test_copies_that_cannot_be_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full while they are copied: the copies of the upgrade before are still there, and no half ones; and
    what is left of one that was killed goes with the state (PK6)."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: os.stat("/nowhere"))
        with pytest.raises(OSError, match="nowhere"):
            keep_state(folder)
    assert found(folder / "before-upgrade") == OLD
    (folder / "before-upgrade.new").mkdir()
    forget_state(folder)
    assert [*folder.iterdir()] == []


def test_the_way_back_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state cannot be put back: the instance goes on with that of after, which no later start takes away (PK6)."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: os.stat("/nowhere"))
        with pytest.raises(OSError, match="nowhere"):
            bring_back(folder)
    put(folder, NEW)
    finish_return(folder)
    assert found(folder) == NEW
    assert found(folder / "before-upgrade") == OLD
