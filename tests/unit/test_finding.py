"""engine.instances.find_anywhere: where an instance is looked for when nobody says where it is."""

from __future__ import annotations

import pytest

from pointsman.engine import instances
from pointsman.engine.base import Address
from pointsman.engine.local import lookup
from pointsman.exceptions import ServeException

HERE = Address("here", "/run/ctl", b"key", "127.0.0.1", 8000, 60.0)
THERE = Address("there", "ray:n/there", b"key", None, 0, 60.0)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> dict[str, Address]:
    """Which instances there are, by engine; a test says."""
    found: dict[str, Address] = {}

    def find_local(name: str) -> Address:
        if "local" not in found:
            raise ServeException("none here")
        return found["local"]

    def find(name: str, engine: str, address: str | None = None) -> Address:
        if engine not in found:
            raise ServeException("none there")
        return found[engine]

    monkeypatch.setattr(lookup, "is_alive", lambda name: "local" in found)
    monkeypatch.setattr(lookup, "find_instance", find_local)
    monkeypatch.setattr(instances, "find_instance", find)
    return found


@pytest.mark.parametrize(
    ("member", "named", "there_are", "found"),
    [
        (False, False, {"local": HERE}, HERE),
        (False, False, {"local": HERE, "ray": THERE}, HERE),
        (False, False, {"ray": THERE}, "none here"),
        (False, True, {"local": HERE, "ray": THERE}, HERE),
        (False, True, {"ray": THERE}, THERE),
        (False, True, {}, "none there"),
        (True, False, {"local": HERE}, HERE),
        (True, False, {"ray": THERE}, THERE),
        (True, False, {}, "on this machine, and: none there"),
        (
            True,
            False,
            {"local": HERE, "ray": THERE},
            "on this machine at http://127.0.0.1:8000 and one on the Ray cluster",
        ),
        (True, True, {"local": HERE, "ray": THERE}, "engine='local'"),
    ],
)
def test_where_an_instance_is_looked_for(
    member: bool,
    named: bool,
    there_are: dict[str, Address],
    found: Address | str,
    places: dict[str, Address],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """connect() finds an instance on this machine and in the cluster that this process is in, and joins the one that
    RAY_ADDRESS names only if it must; one in each place is ambiguous (IN8)."""
    monkeypatch.setattr(instances, "_in_a_cluster", lambda: member)
    monkeypatch.setattr(instances, "_names_a_cluster", lambda: named)
    places.update(there_are)
    if isinstance(found, Address):
        assert instances.find_anywhere("n") is found
    else:
        with pytest.raises(ServeException, match=found):
            instances.find_anywhere("n")
