"""controller.store: what was acknowledged is there after a restart, and what is damaged is refused."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from pathlib import Path

import msgspec
import pytest

from pointsman.controller.history import KEPT_CHANGES, recorded
from pointsman.controller.state import Before, Desired, Fallback, Operation
from pointsman.controller.store import KEPT_REPLIES, Store, StoreError
from pointsman.model import (
    DEFAULT_SHARD_KEY,
    BackendConfigSpec,
    BackendSpec,
    CustomPolicy,
    EndpointSpec,
    Environment,
    Origin,
    Pins,
    Resources,
    TargetTraits,
    TrafficChange,
    TrafficHistory,
    TrafficPolicy,
)
from pointsman.usercode.packing import code_digest
from pointsman.wire.apply import Mark, Marks, Plan, WantedEndpoint

CODE = b"opaque code"
ENVIRONMENT = Environment("conda", "tf1", "/c/bin/python", "3.11.7", {"A": "b"}, ("GONE",), ("/c/bin",))


def backend(tag: str = "b", version: int = 1, code: bytes = CODE, **config: int) -> BackendSpec:
    traits = TargetTraits(is_class=True)
    return BackendSpec(
        tag=tag,
        version=version,
        config_version=version,
        code=code_digest(code),
        traits=traits,
        config=BackendConfigSpec(**config),
        resources=Resources(num_gpus=0.5, custom={"a": 1.0}),
        origin=Origin("/work", ("/work", "/lib"), ENVIRONMENT),
    )


def state(version: int = 3) -> Desired:
    policy = TrafficPolicy(version, {"b": 0.25, "ü": 0.75})
    return Desired(
        version,
        {"b": backend(num_replicas=4), "ü": backend("ü")},
        {"e": EndpointSpec("e", "/e/{id}", ("GET", "POST"), policy, idempotent=True)},
        {"b": Fallback(backend(num_replicas=1)), "ü": Fallback(None, "e")},
    )


def reopened(path: Path) -> Store:
    store = Store(path)
    store.open()
    return store


def edit(path: Path, statement: str, *values: object) -> None:
    """What a fault, or another program, does to the file."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def filled(path: Path) -> Path:
    store = reopened(path)
    store.commit(state(), reply_to="c1", reply=b"r1", codes=[CODE])
    store.close()
    return path


def test_an_acknowledged_state_is_read_back_whole(filled: Path) -> None:
    """After a restart everything is as it was when the change was acknowledged (G4, G6, IN10)."""
    store = Store(filled)
    loaded = store.open()
    assert loaded.desired == state()
    assert loaded.replies == {"c1": b"r1"}
    assert store.blob(code_digest(CODE)) == CODE
    store.close()


def test_a_new_store_is_empty_and_private(path: Path) -> None:
    """A first start finds nothing, and nobody else can read what it will write (SECURITY.md)."""
    store = Store(path)
    assert store.open().desired == Desired()
    assert path.stat().st_mode & 0o777 == 0o600
    store.close()


def test_each_opening_is_a_new_epoch(filled: Path) -> None:
    """A restarted controller has a higher number than all before it, so that old ones can be refused (F9)."""
    epochs = []
    for _ in range(3):
        store = Store(filled)
        epochs.append(store.open().epoch)
        store.close()
    assert epochs == sorted(set(epochs))


def test_what_was_removed_stays_away(filled: Path) -> None:
    """A deleted backend does not come back with the next controller, and its code is gone from the disk."""
    store = reopened(filled)
    store.commit(Desired(4))
    store.close()
    store = Store(filled)
    assert store.open().desired == Desired(4)
    with pytest.raises(StoreError, match="is missing"):
        store.blob(code_digest(CODE))
    store.close()


def test_code_that_a_fallback_needs_is_kept(path: Path) -> None:
    """While a new version may still be taken back, the old one's code is there; afterwards it is not (G7)."""
    store = reopened(path)
    old, new = backend(), backend(version=2, code=b"new code")
    store.commit(Desired(1, {"b": old}), codes=[CODE])
    store.commit(Desired(2, {"b": new}, {}, {"b": Fallback(old)}), codes=[b"new code"])
    assert store.blob(code_digest(CODE)) == CODE
    store.commit(Desired(2, {"b": new}))
    assert store.blob(code_digest(b"new code")) == b"new code"
    with pytest.raises(StoreError):
        store.blob(code_digest(CODE))
    store.close()


@pytest.mark.parametrize("column", ["value", "checksum"])
def test_a_damaged_object_is_refused(filled: Path, column: str) -> None:
    """A value that is not what was written is never acted on; the error names it (F19)."""
    edit(filled, f"UPDATE objects SET {column} = ? WHERE kind = 'endpoints'", b"{}")
    with pytest.raises(StoreError, match="checksum of endpoints 'e'"):
        Store(filled).open()


def test_an_object_of_an_unknown_kind_is_refused(filled: Path) -> None:
    """What this version does not know is not passed over in silence."""
    edit(filled, "UPDATE objects SET kind = 'shadows' WHERE kind = 'endpoints'")
    with pytest.raises(StoreError, match="damaged"):
        Store(filled).open()


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """Garbage in the state folder is an error that names the file, not a fresh start."""
    path.write_bytes(b"not a database, certainly" * 100)
    path.chmod(0o600)
    with pytest.raises(StoreError, match=r"state\.db cannot be read"):
        Store(path).open()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o666])
def test_a_file_that_others_can_reach_is_refused(filled: Path, mode: int) -> None:
    """A state that somebody else could have read or written is not trusted; the error says what to do (S11, IN11)."""
    filled.chmod(mode)
    with pytest.raises(StoreError, match=f"mode {mode:o}.*make it 0600"):
        Store(filled).open()


def test_a_link_is_not_followed(filled: Path, tmp_path: Path) -> None:
    """A link in the place of the database leads nowhere."""
    link = tmp_path / "link.db"
    link.symlink_to(filled)
    with pytest.raises(StoreError, match="is a link"):
        Store(link).open()


def test_code_that_was_changed_on_disk_is_refused(filled: Path) -> None:
    """Code is checked against its digest each time it is read, since replicas run it (F19)."""
    store = reopened(filled)
    edit(filled, "UPDATE blobs SET data = ?", b"evil code")
    with pytest.raises(StoreError, match="damaged"):
        store.blob(code_digest(CODE))
    store.close()
    with pytest.raises(StoreError, match="is not what was stored"):
        Store(filled).open()


def test_a_newer_schema_is_refused(filled: Path) -> None:
    """An older release does not touch the state of a newer one; the error names both versions."""
    edit(filled, "UPDATE meta SET value = '7' WHERE key = 'schema'")
    with pytest.raises(StoreError, match="schema version 7; this pointsman reads 6"):
        Store(filled).open()


@pytest.mark.slow
def test_the_last_replies_are_kept_and_no_more(path: Path) -> None:
    """A client that repeats a recent command gets its first reply; the file does not grow for ever (CL5, G9)."""
    store = reopened(path)
    for number in range(KEPT_REPLIES + 5):
        store.commit(Desired(number), reply_to=f"c{number}", reply=b"%d" % number)
    store.close()
    store = Store(path)
    replies = store.open().replies
    assert len(replies) == KEPT_REPLIES
    assert list(replies)[-1] == f"c{KEPT_REPLIES + 4}"
    assert "c4" not in replies
    store.commit(Desired(9999), reply_to="later", reply=b"l")
    store.close()
    assert "later" in Store(path).open().replies


def test_the_history_is_written_line_by_line(path: Path) -> None:
    """A change writes its own line of the history, and takes away the oldest; the others stay as they are (AD7)."""
    desired = Desired()
    store = reopened(path)
    for number in range(1, KEPT_CHANGES + 3):
        new = msgspec.structs.replace(desired, version=number, backends={"b": backend(version=number)})
        desired = recorded(desired, new, by="anna", now="now")
        store.commit(desired, codes=[CODE])
    store.close()
    with sqlite3.connect(path) as connection:
        rows = dict(connection.execute("SELECT name, rowid FROM objects WHERE kind = 'changes'"))
    assert len(rows) == KEPT_CHANGES
    assert sorted(rows.values()) == [rows[name] for name in sorted(rows)]  # a row that is written again gets a new id
    assert len(set(rows.values())) == KEPT_CHANGES
    assert Store(path).open().desired.changes == desired.changes


def test_a_commit_that_fails_leaves_everything(filled: Path) -> None:
    """A change that cannot be made durable is not made: neither now nor after a restart (CL3, G6)."""
    store = reopened(filled)
    blocker = sqlite3.connect(filled, isolation_level=None)
    blocker.execute("CREATE TRIGGER full BEFORE INSERT ON replies BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    with pytest.raises(StoreError, match="disk is full"):
        store.commit(Desired(9), reply_to="c9", reply=b"r9")
    blocker.execute("DROP TRIGGER full")
    blocker.close()
    store.commit(state(4), reply_to="c4", reply=b"r4")
    store.close()
    loaded = Store(filled).open()
    assert loaded.desired == state(4)
    assert set(loaded.replies) == {"c1", "c4"}


def with_traffic(version: int = 3) -> Desired:
    """A state with all that can be set of traffic."""
    policy = TrafficPolicy(
        version,
        {"b": 1 / 3, "ü": 2 / 3},
        {"b": 0.1, "ü": 5e-324},
        CustomPolicy("my.policies:canary", ("/work", "/lib")),
    )
    older = TrafficPolicy(version - 1, {"b": 1.0})
    changes = (TrafficChange(older, "2024-05-01T12:00:00Z", "created", "ann"), TrafficChange(policy, "", "ü", "\n\0"))
    return Desired(
        version,
        {"b": backend(), "ü": backend("ü")},
        {"e": EndpointSpec("e", "/e", ("GET",), policy, shard_key="cookie:Session")},
        {},
        {"e": Pins({"": "b", "alice": "ü", "🦆": "b", "a\0b": "b"})},
        {"e": TrafficHistory(changes)},
    )


def test_all_about_traffic_survives(path: Path) -> None:
    """Shadows, pins, history, the user's own policy and the source of keys outlive the controller, bit by bit (G4)."""
    store = reopened(path)
    store.commit(with_traffic(), codes=[CODE])
    store.close()
    store = Store(path)
    desired = store.open().desired
    assert desired == with_traffic()
    assert desired.endpoints["e"].policy.weights["b"].hex() == (1 / 3).hex()
    store.close()


def test_no_limit_is_no_limit_after_a_restart(path: Path) -> None:
    """An endpoint that takes bodies of any size takes them under the next controller, too (G4)."""
    endless = msgspec.structs.replace(state().endpoints["e"], max_body_bytes=math.inf)
    store = reopened(path)
    store.commit(Desired(4, state().backends, {"e": endless}), codes=[CODE])
    store.close()
    store = Store(path)
    assert store.open().desired.endpoints["e"].max_body_bytes == math.inf
    store.close()


def test_pins_and_history_go_with_their_endpoint(path: Path) -> None:
    """What was taken away from an endpoint's traffic does not come back with the next controller (LC2)."""
    store = reopened(path)
    store.commit(with_traffic(), codes=[CODE])
    store.commit(Desired(4, with_traffic().backends))
    store.close()
    desired = Store(path).open().desired
    assert (desired.endpoints, desired.pins, desired.histories) == ({}, {}, {})


def with_apply() -> Desired:
    """An apply that runs: it replaces a backend whose last change had not come up yet."""
    before = Before(backend(), Fallback(backend(code=b"older code")))
    plan = Plan(endpoints={"e": WantedEndpoint("/e", ("GET",), {"b": 1.0})}, claims={"endpoint/e": ("route",)})
    return Desired(
        3,
        {"b": backend(version=3, code=b"new code")},
        {},
        {"b": Fallback(backend(), marks=Marks("shop"))},
        marks={"backend/b": Marks("shop", {"code": Mark("shop", "anna", "2026-11-28T12:00:00.000+00:00", 2)})},
        operations={
            "op": Operation("op", "shop", "anna", "now", 3, plan, {"b": 1}, {"b": before}, {"e": None}, tags=("b",)),
            "old": Operation("old", "shop", "anna", "then", 2, state="taken back", object="backend/b", text="no"),
        },
    )


def test_an_apply_and_all_marks_survive(path: Path) -> None:
    """The next controller goes on with it, and can take it back: the code of before is there as well (CF8, CF10)."""
    store = reopened(path)
    store.commit(Desired(1, {"b": backend(code=b"older code")}), codes=[b"older code"])
    both = {"b": backend()}, {}, {"b": Fallback(backend(code=b"older code"))}
    store.commit(Desired(2, *both), codes=[CODE])
    store.commit(with_apply(), codes=[b"new code"])
    store.close()
    store = Store(path)
    assert store.open().desired == with_apply()
    for code in (b"older code", CODE, b"new code"):
        assert store.blob(code_digest(code)) == code
    ended = Desired(4, with_apply().backends)
    store.commit(ended)
    assert store.blob(code_digest(b"new code")) == b"new code"
    with pytest.raises(StoreError, match="is missing"):
        store.blob(code_digest(b"older code"))
    store.close()
    assert Store(path).open().desired == ended


def test_a_state_without_marks_opens(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release before wrote JSON, and knew neither marks nor applies: nobody is known to have set anything
    (CF10, G4)."""
    with monkeypatch.context() as before:
        before.setattr(msgspec.msgpack, "encode", msgspec.json.encode)
        before.setattr("pointsman.controller.store.snapshot.SCHEMA_VERSION", 2)
        store = reopened(path)
        store.commit(state(), codes=[CODE])
        store.close()
    store = Store(path)
    desired = store.open().desired
    assert (desired.marks, desired.operations) == ({}, {})
    assert desired == state()
    store.commit(with_apply(), codes=[b"new code", b"older code"])
    store.close()
    assert Store(path).open().desired == with_apply()


@pytest.mark.parametrize("kind", ["pins", "histories"])
def test_damaged_pins_and_histories_are_refused(path: Path, kind: str) -> None:
    """A pin or a line of history that is not what was written is never acted on (F19)."""
    store = reopened(path)
    store.commit(with_traffic(), codes=[CODE])
    store.close()
    edit(path, "UPDATE objects SET value = ? WHERE kind = ?", b"{}", kind)
    with pytest.raises(StoreError, match=f"checksum of {kind} 'e'"):
        Store(path).open()


def test_a_state_of_an_older_release_opens(filled: Path) -> None:
    """After an upgrade an endpoint that knew no shadows, policies and keys is served as before (G4)."""
    with sqlite3.connect(filled) as connection:
        (value,) = connection.execute("SELECT value FROM objects WHERE kind = 'endpoints'").fetchone()
    connection.close()
    fields = msgspec.msgpack.decode(value)
    del fields["shard_key"], fields["idempotent"], fields["policy"]["shadows"], fields["policy"]["custom"]
    data = json.dumps(fields).encode()
    checksum = hashlib.sha256(b"endpoints\0e\0" + data).digest()
    edit(filled, "UPDATE objects SET value = ?, checksum = ? WHERE kind = 'endpoints'", data, checksum)
    edit(filled, "DELETE FROM meta WHERE key NOT IN ('version', 'epoch')")
    edit(filled, "INSERT INTO meta VALUES ('schema', 1)")
    filled.with_name("state.db.ack").unlink()  # the first schema knew neither digests nor this file
    desired = Store(filled).open().desired
    (endpoint,) = desired.endpoints.values()
    assert endpoint.policy == state().endpoints["e"].policy
    assert (endpoint.shard_key, endpoint.policy.shadows, endpoint.policy.custom) == (DEFAULT_SHARD_KEY, {}, None)
    assert (desired.pins, desired.histories) == ({}, {})
