"""engine.folder: whose folders are trusted with an instance's state."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from pointsman.engine import folder as folders
from pointsman.engine.folder import lock_state_folder
from pointsman.engine.instances import log_folders
from pointsman.engine.local import folder
from pointsman.engine.local.folder import About, InstanceFolder
from pointsman.exceptions import ServeException


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


def test_a_folder_is_for_one_instance(state: Path) -> None:
    """The state of a live instance is not taken from under it; when that has ended it is free again (IN11)."""
    lock = lock_state_folder(state)
    with pytest.raises(ServeException, match=f"{state} is in use by a live instance"):
        lock_state_folder(state)
    os.close(lock)
    os.close(lock_state_folder(state))


def test_a_folder_of_somebody_else(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State that another user owns is not trusted; the error names both users (IN11)."""
    ours = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: ours + 1)
    with pytest.raises(ServeException, match=f"belongs to user {ours}, not to this user .{ours + 1}"):
        lock_state_folder(state)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o702])
def test_a_folder_that_others_may_enter(state: Path, mode: int) -> None:
    """State that others could read or write is refused, with the mode that would be right (IN11)."""
    state.chmod(mode)
    with pytest.raises(ServeException, match=f"mode {mode:o}.*make it 0700"):
        lock_state_folder(state)


def test_a_link_to_a_folder(state: Path, tmp_path: Path) -> None:
    """A link is not followed: it may lead somewhere else tomorrow (IN11)."""
    (tmp_path / "link").symlink_to(state)
    with pytest.raises(ServeException, match="symlink"):
        lock_state_folder(tmp_path / "link")


def test_what_is_no_folder(tmp_path: Path) -> None:
    """A file, or a link to nowhere, is named as what it is not (IN11)."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(ServeException, match=f"{name} is not a folder"):
            lock_state_folder(tmp_path / name)


@pytest.mark.parametrize(("kind", "refused"), [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False)])
def test_a_folder_on_a_network(state: Path, monkeypatch: pytest.MonkeyPatch, kind: str, refused: bool) -> None:
    """On a network file system locks and syncs may lie, so state is not kept there (IN11)."""
    mounts = f"disk / ext4 rw 0 0\nserver:/x {state.parent} {kind} rw 0 0\n"
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self: mounts if str(self) == "/proc/mounts" else read(self))
    assert folders.file_system_of(state) == kind
    if refused:
        with pytest.raises(ServeException, match=f"network file system .{kind}"):
            lock_state_folder(state)
    else:
        os.close(lock_state_folder(state))


def test_a_folder_that_goes_while_others_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance ends, and removes its folder, just as another start looks for what was left behind (FT10)."""
    monkeypatch.setattr(folder, "runtime_folder", lambda: tmp_path)
    monkeypatch.setattr(folder, "SWEEP_AGE_S", -1)
    gone, left = tmp_path / f"{folder.ANONYMOUS_PREFIX}gone", tmp_path / f"{folder.ANONYMOUS_PREFIX}left"
    left.mkdir()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([gone, left]))
    folder.sweep_anonymous()
    assert not left.exists()


def test_logs_are_where_an_older_instance_has_them(tmp_path: Path) -> None:
    """My instance runs on since before an upgrade, and says of itself less than one does now: its logs are looked for
    in its folder, and not where I am."""
    instance = InstanceFolder(tmp_path)
    about = About("i", "n", 1, None, 0, 1.0, 0, logs="/state/logs")
    instance.write("about", msgspec.json.encode(about))
    assert instance.logs() == Path("/state/logs")
    older = {name: value for name, value in msgspec.to_builtins(about).items() if name != "logs"}
    instance.write("about", msgspec.json.encode(older))
    assert instance.logs() == tmp_path / "logs"
    assert log_folders(str(instance.control_socket)) == {"": tmp_path / "logs"}


def test_a_name_that_two_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old and the new supervisor have a name lead to the new folder at the same moment: neither fails (PK6)."""
    new, replace = InstanceFolder(tmp_path / ".g.new"), os.replace
    new.path.mkdir()

    def later(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        InstanceFolder(new.path).take_name("shop")
        replace(source, target)

    monkeypatch.setattr(os, "replace", later)
    new.take_name("shop")
    assert os.readlink(tmp_path / "shop") == ".g.new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".g.new", "shop"]


def test_what_no_name_leads_to_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of upgrades that were killed go, with links that no name was given to; one with a name stays (PK6)."""
    monkeypatch.setattr(folder, "runtime_folder", lambda: tmp_path)
    monkeypatch.setattr(folder, "SWEEP_AGE_S", -1)
    for name in ("kept", "left"):
        (tmp_path / f".g.{name}").mkdir()
    InstanceFolder(tmp_path / ".g.kept").take_name("shop")
    (tmp_path / ".g.left.0123.link").symlink_to(".g.left")
    folder.sweep_anonymous()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".g.kept", "shop"]


def test_a_name_is_for_one_instance(tmp_path: Path) -> None:
    """Whoever starts an instance under the name of a live one is refused, whichever of both can be upgraded (PK6)."""
    for first in ("shop", ".g.one"):
        lock = InstanceFolder(tmp_path / first).create()
        if first != "shop":
            InstanceFolder(tmp_path / first).claim("shop")
        with pytest.raises(ServeException, match="an instance named 'shop' is running"):
            InstanceFolder(tmp_path / "shop").create()
        other = InstanceFolder(tmp_path / ".g.other")
        os.close(other.create())
        with pytest.raises(ServeException, match="an instance named 'shop' is running"):
            other.claim("shop")
        os.close(lock)
        other.claim("shop")
        other.remove()
        assert not (tmp_path / "shop").exists()
