"""controller.store on disks that lie, fill up, fail and forget (F17-F19)."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pointsman.controller.state import Desired
from pointsman.controller.store import Store, StoreError
from tests.loop.test_store import CODE, edit, state

MUTATIONS = int(os.environ.get("POINTSMAN_STORE_MUTATIONS", "600"))
"""``make chaos`` asks for more than 5,000."""

FILES = ("state.db", "state.db-wal", "state.db-shm")


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: thousands of syncs would take minutes."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pointsman-store-", dir=place) as name:
        yield Path(name)


def written(folder: Path, *, copied: bool) -> Desired:
    """A store as a killed controller leaves it: log and all, with or without a second copy of its last state."""
    path = folder / "live" / "state.db"
    path.parent.mkdir()
    store = Store(path)
    store.open()
    store.commit(state(1), reply_to="c1", reply=b"r1", codes=[CODE])
    store.copy()
    for version in (2, 3):
        store.commit(state(version), reply_to=f"c{version}", reply=b"r")
    if copied:
        store.copy()
    shutil.copytree(path.parent, folder / "image")
    store.close()
    shutil.rmtree(path.parent)
    return state(3)


Mutate = Callable[[bytes], bytes]


def flips(size: int, chance: random.Random) -> Iterator[Mutate]:
    while True:
        place, bit = chance.randrange(size), 1 << chance.randrange(8)
        yield lambda data, place=place, bit=bit: data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]  # type: ignore[misc]


def cuts(size: int, chance: random.Random) -> Iterator[Mutate]:
    while True:
        end = chance.randrange(size)
        yield lambda data, end=end: data[:end]  # type: ignore[misc]


def zeros(size: int, chance: random.Random) -> Iterator[Mutate]:
    while True:
        place = chance.randrange(0, size, 512)
        length = min(chance.choice((512, 4096)), size - place)
        yield lambda data, place=place, length=length: data[:place] + bytes(length) + data[place + length :]  # type: ignore[misc]


def noise(size: int, chance: random.Random) -> Iterator[Mutate]:
    while True:
        place, more = chance.randrange(size), chance.randbytes(16)
        yield lambda data, place=place, more=more: (data[:place] + more + data[place + 16 :])[: len(data)]  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("copied", [True, False], ids=["copied", "not copied"])
def test_damaged_files(folder: Path, copied: bool) -> None:
    """Whatever is damaged, a start finds exactly the last good state, or refuses and names the file (F19)."""
    good = written(folder, copied=copied)
    image, live = folder / "image", folder / "try"
    chance = random.Random(19)
    kinds = [
        (name, kind(len((image / name).read_bytes()), chance))
        for name in (*FILES, "state.db.ack", *(["state.db.copy"] if copied else []))
        for kind in (flips, cuts, zeros, noise)
    ]
    ends: Counter[str] = Counter()
    for name, mutations in itertools.islice(itertools.cycle(kinds), MUTATIONS // 2):
        shutil.copytree(image, live)
        (live / name).write_bytes(next(mutations)((image / name).read_bytes()))
        before = {file.name: file.read_bytes() for file in live.iterdir()}
        store = Store(live / "state.db")
        try:
            loaded = store.open()
        except StoreError as error:
            ends["refused" if str(live) in str(error) else "refused without a name"] += 1
            for file in ("state.db", "state.db-wal"):  # a refusal leaves what it refuses
                assert (live / file).read_bytes() == before[file]
        else:
            assert loaded.desired == good, name
            assert set(loaded.replies) == {"c1", "c2", "c3"}
            kept = list(live.glob("*.corrupt-*"))
            ends["restored" if kept else "unharmed"] += 1
            for file in kept:
                if "-shm" not in file.name:
                    assert file.read_bytes() == before[file.name.partition(".corrupt-")[0]]
            store.close()
        shutil.rmtree(live)
    assert ends["unharmed"]
    assert not ends["refused without a name"]
    assert ends["restored" if copied else "refused"]
    print(dict(ends))


def test_another_stores_log(folder: Path) -> None:
    """The log of another database, put in the place of ours, does not go for ours (F19)."""
    good = written(folder, copied=True)
    ours = folder / "ours"
    (folder / "image").rename(ours)
    written(folder, copied=False)
    shutil.copy(folder / "image" / "state.db-wal", ours / "state.db-wal")
    store = Store(ours / "state.db")
    assert store.open().desired == good
    store.close()
    assert list(ours.glob("state.db-wal.corrupt-*"))


def test_another_stores_database(folder: Path) -> None:
    """A whole database of another instance is not taken for ours, however sound it is (F19)."""
    good = written(folder, copied=True)
    ours = folder / "ours"
    (folder / "image").rename(ours)
    written(folder, copied=False)
    for name in FILES:
        shutil.copy(folder / "image" / name, ours / name)
    store = Store(ours / "state.db")
    assert store.open().desired == good
    store.close()


def test_a_database_that_is_gone_is_not_a_fresh_start(folder: Path) -> None:
    """Where something was acknowledged once, an empty folder is no new beginning (F19)."""
    good = written(folder, copied=True)
    path = folder / "image" / "state.db"
    for name in FILES:
        (folder / "image" / name).unlink()
    store = Store(path)
    assert store.open().desired == good
    store.close()
    for name in (*FILES, "state.db.copy"):
        (folder / "image" / name).unlink(missing_ok=True)
    with pytest.raises(StoreError, match=r"state\.db is missing"):
        Store(path).open()


def test_an_old_backup_is_refused(folder: Path) -> None:
    """Somebody puts back yesterday's file: sound, but not what was acknowledged (F19)."""
    path = folder / "state.db"
    store = Store(path)
    store.open()
    store.commit(state(1), codes=[CODE])
    store.close()
    yesterday = path.read_bytes()
    store = Store(path)
    store.open()
    store.commit(state(2))
    store.close()
    path.write_bytes(yesterday)
    with pytest.raises(StoreError, match=r"it holds version 1 .* was acknowledged"):
        Store(path).open()


def commit_fails(store: Store, error: str) -> None:
    with pytest.raises(StoreError, match=f"not durable.*{error}"):
        store.commit(state(9), reply_to="c9", reply=b"r9")


class Failing:
    """Stands in for ``os.fsync`` and the like: fails while ``broken``."""

    def __init__(self, function: Callable[..., object], error: OSError) -> None:
        self.function, self.error, self.broken = function, error, True

    def __call__(self, *arguments: object) -> object:
        if self.broken:
            raise self.error
        return self.function(*arguments)


@pytest.mark.parametrize("what", ["fsync", "open"])
def test_a_disk_that_fails_for_a_while(folder: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A change that cannot be synced is refused, the old state stays, and all is well once the disk is (F17, F18)."""
    store = Store(folder / "state.db")
    store.open()
    store.commit(state(1), reply_to="c1", reply=b"r1", codes=[CODE])
    failing = Failing(getattr(os, what), OSError(28, "No space left on device"))
    monkeypatch.setattr(os, what, failing)
    commit_fails(store, "No space left")
    failing.broken = False
    store.commit(state(2), reply_to="c2", reply=b"r2")
    store.close()
    loaded = Store(folder / "state.db").open()
    assert loaded.desired == state(2)
    assert set(loaded.replies) == {"c1", "c2"}


def test_a_full_database(folder: Path) -> None:
    """SQLite finds no room for a change: refused whole, and taken once there is room (F17)."""
    store = Store(folder / "state.db")
    store.open()
    store.commit(state(1), reply_to="c1", reply=b"r1", codes=[CODE])
    connection = store._connection
    assert connection is not None
    connection.execute("PRAGMA max_page_count = 1")  # it keeps to what it has
    with pytest.raises(StoreError, match="full"):
        store.commit(state(2), reply_to="c2", reply=b"r2" * 50_000)
    store.commit(state(3), reply_to="c3", reply=b"r3" * 50_000)  # on a connection that was opened anew
    store.close()
    assert Store(folder / "state.db").open().desired == state(3)


def test_somebody_else_holds_the_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program writes: the change is refused within seconds, not waited for without end (F18)."""
    monkeypatch.setattr("pointsman.controller.store.sqlite.BUSY_TIMEOUT_S", 0.05)
    monkeypatch.setattr("pointsman.controller.store.snapshot.BUSY_TIMEOUT_S", 0.05)
    store = Store(folder / "state.db")
    store.open()
    other = sqlite3.connect(folder / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    commit_fails(store, "locked")
    other.execute("ROLLBACK")
    other.close()
    store.commit(state(2), codes=[CODE])
    store.close()
    assert Store(folder / "state.db").open().desired == state(2)


def test_a_change_that_arrived_although_it_was_refused(folder: Path) -> None:
    """What a failing disk has kept of a refused change is taken back before the next one (F18, CL3)."""
    store = Store(folder / "state.db")
    store.open()
    store.commit(state(1), reply_to="c1", reply=b"r1", codes=[CODE])
    other = Store(folder / "state.db")
    other._connect()
    other._now = store._now
    other.commit(state(5), reply_to="c5", reply=b"r5")  # the disk has it, and nobody was told
    other.close()
    store._doubtful = True
    store.commit(state(2), reply_to="c2", reply=b"r2")
    store.close()
    loaded = Store(folder / "state.db").open()
    assert loaded.desired == state(2)
    assert set(loaded.replies) == {"c1", "c2"}


def test_files_that_are_taken_away(folder: Path) -> None:
    """The log is removed while we run: what is in force is written again, not into nowhere (F18)."""
    store = Store(folder / "state.db")
    store.open()
    store.commit(state(1), codes=[CODE])
    (folder / "state.db-wal").unlink()
    store.commit(state(2))
    store.close()
    assert Store(folder / "state.db").open().desired == state(2)


def test_a_copy_that_cannot_be_made_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while the copy is written costs neither the copy before nor the database (F17)."""
    store = Store(folder / "state.db")
    store.open()
    store.commit(state(1), codes=[CODE])
    store.copy()
    before = (folder / "state.db.copy").read_bytes()
    store.commit(state(2))
    monkeypatch.setattr("pointsman.controller.store.sqlite.sync", Failing(os.fsync, OSError(28, "No space left")))
    with pytest.raises(StoreError, match="could not be copied"):
        store.copy()
    assert (folder / "state.db.copy").read_bytes() == before
    monkeypatch.undo()
    store.copy()
    store.close()
    edit(folder / "state.db.copy", "SELECT 1")


@pytest.mark.parametrize("name", FILES)
def test_files_of_others(folder: Path, name: str) -> None:
    """A log or index that others could write is refused like the database itself (F19)."""
    written(folder, copied=True)
    (folder / "image" / name).chmod(0o666)
    with pytest.raises(StoreError, match=f"{name} is not private"):
        Store(folder / "image" / "state.db").open()
