"""engine.local.lasttable: what an HTTP server serves by that begins while there is no controller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pointsman.engine.local.folder import InstanceFolder
from pointsman.engine.local.lasttable import SHORT, LastTable
from pointsman.model import EndpointSpec, RoutingTable, TrafficPolicy
from pointsman.wire.messages import pack
from pointsman.wire.tables import TableChange


@pytest.fixture
def folder(tmp_path: Path) -> InstanceFolder:
    return InstanceFolder(tmp_path)


def test_the_newest_table_is_kept(folder: InstanceFolder) -> None:
    """An HTTP server that begins anew serves by the newest table, whoever has written it (G4)."""
    assert LastTable(folder).read() is None
    for version in (3, 4):
        LastTable(folder).keep(pack(RoutingTable(version, {}, {})))
    kept = LastTable(folder).read()
    assert kept is not None
    assert kept.table == RoutingTable(4, {}, {})
    kept.close()


@pytest.mark.parametrize("tables", [1, 2, 3])
def test_a_newer_table_is_noticed(folder: InstanceFolder, tables: int) -> None:
    """Whoever serves by the kept table can tell at any moment that another was kept since, or that it was taken away,
    also when a file of the same size took its place twice within a moment (CL4, G6)."""
    last = LastTable(folder)
    last.keep(pack(RoutingTable(1, {}, {})))
    kept = last.read()
    assert kept is not None
    assert kept.is_newest()
    for version in range(2, 2 + tables):
        last.keep(pack(RoutingTable(version, {}, {})))
        assert not kept.is_newest()
    kept.close()
    kept = last.read()
    assert kept is not None
    assert kept.is_newest()
    (folder.path / "table").unlink()
    assert not kept.is_newest()
    kept.close()


def add(last: LastTable, version: int, name: str = "e") -> bool:
    spec = EndpointSpec(name, f"/{name}", ("GET",), TrafficPolicy(version, {"b": 1.0}))
    return last.add(pack(TableChange(version - 1, version, {name: spec})))


def test_changes_follow_the_table(folder: InstanceFolder) -> None:
    """Each change of a large table costs as much as it changes, and whoever uses the file notices it (CL4, G6)."""
    last = LastTable(folder)
    last.keep(pack(RoutingTable(1, {}, {})))
    for version in range(2, 5):
        before, size = last.read(), (folder.path / "table").stat().st_size
        assert before is not None
        assert add(last, version, str(version))
        assert 0 < (folder.path / "table").stat().st_size - size < 300
        assert not before.is_newest()
        before.close()
    kept = last.read()
    assert kept is not None
    assert kept.is_newest()
    assert (kept.table.version, sorted(kept.table.endpoints)) == (4, ["2", "3", "4"])
    kept.close()


def test_the_table_is_written_whole_before_its_changes_outgrow_it(folder: InstanceFolder) -> None:
    """However long an instance is changed, its file stays small."""
    last = LastTable(folder)
    assert not add(last, 2)  # there is nothing that it could follow
    last.keep(pack(RoutingTable(1, {}, {})))
    version = 2
    while add(last, version):
        version += 1
    assert SHORT - 300 < (folder.path / "table").stat().st_size < SHORT + 10_000
    last.keep(pack(RoutingTable(version, {}, {})))
    assert (folder.path / "table").stat().st_size < 100


@pytest.mark.parametrize("left", [0, 1, 4, 5, 20])
def test_half_a_change_does_not_count(folder: InstanceFolder, left: int) -> None:
    """A controller that dies while it writes a change has not acknowledged it: an HTTP server that begins serves by the
    table before, and by the change once it is whole (FT7, G6)."""
    last = LastTable(folder)
    last.keep(pack(RoutingTable(1, {}, {})))
    size = (folder.path / "table").stat().st_size
    add(last, 2)
    whole = (folder.path / "table").read_bytes()
    os.truncate(folder.path / "table", size + left)
    kept = last.read()
    assert kept is not None
    assert kept.table.version == 1
    assert kept.is_newest()
    with (folder.path / "table").open("ab") as file:
        file.write(whole[size + left :])
    assert not kept.is_newest()
    kept.close()
    kept = last.read()
    assert kept is not None
    assert kept.table.version == 2
    kept.close()


def test_rather_none_than_one_without_its_change(folder: InstanceFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that cannot be added takes the table along, for which it would be missing (G6)."""
    last = LastTable(folder)
    last.keep(pack(RoutingTable(3, {}, {})))

    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_room)
        assert add(last, 4)
    assert last.read() is None
    assert not add(last, 5)
    last.keep(pack(RoutingTable(5, {}, {})))
    kept = last.read()
    assert kept is not None
    kept.close()


def test_rather_none_than_an_old_one(folder: InstanceFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that cannot be kept takes the older one along: that would bring back what was replaced (G6)."""
    table = LastTable(folder)
    table.keep(pack(RoutingTable(3, {}, {})))

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_room)
    table.keep(pack(RoutingTable(4, {}, {})))
    assert table.read() is None
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize("harm", ["damaged", "readable for others", "of another chain"])
def test_what_is_not_sound_is_not_used(folder: InstanceFolder, harm: str) -> None:
    """A file that is no table, or that others could have a part in, counts as none: the controller is waited for."""
    table = LastTable(folder)
    table.keep(pack(RoutingTable(3, {}, {})))
    if harm == "damaged":
        (folder.path / "table").write_bytes(b"\xc1 no table")
    elif harm == "of another chain":
        add(table, 9)
    else:
        (folder.path / "table").chmod(0o644)
    assert table.read() is None
