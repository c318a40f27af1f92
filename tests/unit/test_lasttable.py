"""engine.local.lasttable: what an HTTP server serves by that begins while there is no controller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pointsman.engine.local.folder import InstanceFolder
from pointsman.engine.local.lasttable import LastTable
from pointsman.model import RoutingTable
from pointsman.wire.messages import pack


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


@pytest.mark.parametrize("harm", ["damaged", "readable for others"])
def test_what_is_not_sound_is_not_used(folder: InstanceFolder, harm: str) -> None:
    """A file that is no table, or that others could have a part in, counts as none: the controller is waited for."""
    table = LastTable(folder)
    table.keep(pack(RoutingTable(3, {}, {})))
    if harm == "damaged":
        (folder.path / "table").write_bytes(b"\xc1 no table")
    else:
        (folder.path / "table").chmod(0o644)
    assert table.read() is None
