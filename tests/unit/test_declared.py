"""controller.views: what a configuration file is compared with."""

from __future__ import annotations

from pointsman.controller.state import Desired
from pointsman.controller.views import declared_of
from pointsman.lock.keys import KeySpec
from pointsman.model import Origin
from pointsman.wire.handover import HTTPSettings, InstanceSettings, LockSettings
from tests.unit.desiring import EMPTY
from tests.unit.planning import applied, begun, served, wanted

LOCK = LockSettings((KeySpec("anna", b"digest"),), "keys.toml", allowed_hosts=("example.org",))
HTTP = HTTPSettings("127.0.0.1", 8000, False, 60.0, 1024, False, b"pickled", Origin("/", ()), lock=LOCK)
SETTINGS = InstanceSettings("i", "shop", b"key", http=HTTP)


def test_it_has_all_but_secrets() -> None:
    """Objects, marks and options of the HTTP servers; no digests of keys, and no code of middlewares (CF10)."""
    state = applied(EMPTY, {"v1": wanted()}, {"rank": served("/rank", v1=1.0, pins={"me": "v1"})})
    seen = declared_of(SETTINGS, state)
    assert (seen.version, seen.backends, seen.endpoints) == (state.version, state.backends, state.endpoints)
    assert (seen.pins, seen.marks, seen.operation) == (state.pins, state.marks, None)
    assert seen.http is not None
    assert (seen.http.port, seen.http.lock.key_file, seen.http.lock.allowed_hosts) == (
        8000,
        "keys.toml",
        ("example.org",),
    )
    assert (seen.http.lock.keys, seen.http.middlewares) == ((), b"")


def test_it_says_which_apply_runs() -> None:
    """Whoever compares is told whose it is, and since when (CF8)."""
    state = begun(EMPTY, {"v1": wanted()})
    running = declared_of(SETTINGS, state).operation
    assert running is not None
    assert (running.owner, running.by, running.state, running.version) == ("shop", "anna", "running", state.version)
    assert declared_of(InstanceSettings("i", "", b"key"), Desired()).http is None
