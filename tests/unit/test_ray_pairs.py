"""engine.ray.hosts: what was compared on a node is read for the controller."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pointsman.engine.process import pack_handover
from pointsman.engine.ray import hosts
from pointsman.engine.ray.folder import NodeFolder
from pointsman.telemetry.pairs import CountKey, PackedCounts, PairCounter, PairReader
from pointsman.wire.handover import MetricsHandover
from pointsman.wire.messages import unpack


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for instances, with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="pm", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def test_a_node_reads_its_compared_answers_beside_all_else(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading what was compared on a node holds up nobody who asks it for metrics or tallies meanwhile (SC6, SC7)."""
    key = CountKey("main", 3, 4, False, "GET /e", "matched")
    folder = NodeFolder("i").pairs
    assert runtime in folder.parents
    folder.parent.mkdir(mode=0o700, parents=True)
    counter = PairCounter(folder / "7-a")
    counter.count(key, 5)
    threads: set[int] = set()
    examples = PairReader.examples
    monkeypatch.setattr(PairReader, "examples", lambda *args: threads.add(threading.get_ident()) or examples(*args))

    async def main() -> None:
        handover = pack_handover(MetricsHandover("i", "n", "127.0.0.1", 0))
        host = hosts.MetricsHost(hosts.HostArgs("metrics", handover, {}, True))
        host._serving.set_result(hosts.Serving(*[None] * len(hosts.Serving._fields)))  # type: ignore[arg-type]
        asked = (host.read_pairs({"7-a": []}) for _ in range(8))
        for packed in await asyncio.gather(*asked):
            assert unpack(packed, PackedCounts) == {"7-a": [(key, 5)]}
        assert json.loads(await host.read_examples("7-a", ["3-4-x"], 10)) == []

    asyncio.run(main())
    counter.close()
    assert threads
    assert threading.get_ident() not in threads
