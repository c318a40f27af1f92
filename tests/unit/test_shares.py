"""ingress.shares: what a key has used up is known to all HTTP servers of a node."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import pointsman as serve
from pointsman.ingress.shares import shares_of
from pointsman.lock.meters import Meter


def meter(folder: Path, identity: str, *, name: str = "ann", processes: int = 2) -> Meter:
    cells, own = shares_of(folder, identity, processes)
    return Meter(serve.ApiKey(name, "k", rate=1, burst=2, max_in_flight=9).spec, cells(name), own)


@pytest.mark.parametrize("identities", [("0", "1"), ("ingress-0-ab12", "ingress-1-ab12")])
def test_servers_of_a_node_share(tmp_path: Path, identities: tuple[str, str]) -> None:
    """Two servers let in as many requests of a key as one; keys do not share (ED4)."""
    one, two = (meter(tmp_path / "k", identity) for identity in identities)
    assert [one.begin(5.0), two.begin(5.0)] == [0.0, 0.0]
    assert one.begin(5.0) == two.begin(5.0) == pytest.approx(1.0)
    assert meter(tmp_path / "k", identities[0], name="bob").begin(5.0) == 0.0
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "k").iterdir()} == {0o600}


def test_a_server_that_begins_anew_has_nothing_under_way(tmp_path: Path) -> None:
    """Requests that were under way in a server that was killed make room once it is back, and others do not (ED4)."""
    one, two = meter(tmp_path, "0"), meter(tmp_path, "1")
    for number in range(5):
        assert one.begin(100.0 * number) == 0.0
    for number in range(5, 9):
        assert two.begin(100.0 * number) == 0.0
    assert two.begin(1000.0) == 1.0
    again = meter(tmp_path, "0")
    assert [again.begin(1000.0 + 10 * number) for number in range(6)] == [0.0] * 5 + [1.0]


def test_one_server_has_no_file(tmp_path: Path) -> None:
    """A server that is alone writes nothing."""
    assert meter(tmp_path / "k", "0", processes=1).begin(1.0) == 0.0
    assert not (tmp_path / "k").exists()


def test_where_no_file_can_be(tmp_path: Path, caplog: Any) -> None:
    """Where servers cannot share, each has the limits for itself, and the log says so."""
    (tmp_path / "k").write_text("no folder")
    with caplog.at_level(logging.ERROR):
        assert meter(tmp_path / "k", "0").begin(1.0) == 0.0
    assert "'ann'" in caplog.text
