"""The user's own source files, and what counts as a change of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pointsman.running.files import is_watched, snapshot
from pointsman.running.reload import follow, watch
from tests.conftest import wait_until

OWN = ("model.py", "part/inner.py", "part/deep/er.py")
OTHERS = (
    *("notes.txt", ".hidden.py", ".git/hook.py", "__pycache__/model.py", "model.py~", ".model.py.swp"),
    *("venv/pyvenv.cfg", "venv/lib/thing.py", ".venv/lib/thing.py", "lib/site-packages/thing.py", "node_modules/x.py"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*OWN, *OTHERS):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    return tmp_path


def test_own_files_are_told_from_those_of_others(folder: Path):
    """Hidden folders, caches, virtual environments and installed packages are not mine, and never reload (RN3)."""
    assert set(snapshot(str(folder))) == {str(folder / name) for name in OWN}
    for name in (*OWN, *OTHERS):
        assert is_watched(str(folder / name), str(folder)) == (name in OWN)
    assert not is_watched("", str(folder))
    assert not is_watched(os.__file__, str(folder))


def test_what_counts_as_a_change(folder: Path):
    """A file that is written, made, deleted or moved into place is a change; what editors write beside it is none
    (RN3)."""
    root = str(folder)
    seen = snapshot(root)

    def changed() -> bool:
        nonlocal seen
        before, seen = seen, snapshot(root)
        return before != seen

    assert not changed()
    (folder / "model.py").write_text("x = 22\n")
    assert changed()
    (folder / "new.py").touch()
    assert changed()
    (folder / "new.py").unlink()
    assert changed()
    (folder / "4913").touch()
    (folder / ".model.py.swp").write_text("y")
    assert not changed()
    (folder / "tmp").write_text("x = 22\n")
    os.replace(folder / "tmp", folder / "model.py")
    assert changed()


def test_a_burst_is_one_reload_and_a_save_meanwhile_one_more(folder: Path):
    """Several saves at once load once; a save while the code is loaded loads once more, afterwards (RN3)."""
    loads: list[int] = []
    model = folder / "model.py"

    def load() -> None:
        loads.append(len(model.read_text()))
        if len(loads) == 2:
            model.write_text("meanwhile = 1\n")

    def wakes() -> Iterator[str]:
        yield "nothing"
        assert loads == []
        for length in range(3):
            model.write_text("y" * (10 + length))
        (folder / "part" / "inner.py").write_text("z")
        yield "a burst"
        assert loads == [12]
        yield "an echo of it"
        assert loads == [12]
        model.write_text("x" * 30)
        yield "a save"
        assert loads == [12, 30, 14]

    follow(lambda: snapshot(str(folder)), snapshot(str(folder)), wakes(), load)


def test_saves_are_told_by_the_system(folder: Path):
    """A save before the watch begins, a save later, and a file in a folder that is new are all noticed (RN3)."""
    root, stop = str(folder), threading.Event()
    seen = snapshot(root)
    loaded: list[set[str]] = []

    def load() -> None:
        loaded.append({os.path.relpath(path, root) for path in set(snapshot(root)) - set(seen)})

    def wait_for(*names: str) -> None:
        wait_until(lambda: loaded and loaded[-1] == set(names), what=f"{names} are loaded")

    (folder / "first.py").touch()
    following = threading.Thread(
        target=follow, args=(lambda: snapshot(root), seen, watch([root], stop), load), daemon=True
    )
    following.start()
    try:
        wait_for("first.py")
        (folder / "fresh").mkdir()
        (folder / "fresh" / "one.py").touch()
        wait_for("first.py", "fresh/one.py")
        (folder / "fresh" / "two.py").touch()
        wait_for("first.py", "fresh/one.py", "fresh/two.py")
        (folder / "first.py").unlink()
        wait_for("fresh/one.py", "fresh/two.py")
    finally:
        stop.set()
        following.join()
