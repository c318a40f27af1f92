"""controller.shadows: what was counted on all nodes is read together, and held against noise."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from pointsman.comparing.redaction import Example
from pointsman.controller.commands import Commands
from pointsman.controller.judging import Judging
from pointsman.controller.shadows import SWEEPS, Shadows
from pointsman.controller.state import Desired
from pointsman.engine.base import OneNode
from pointsman.engine.instances import pairs_folder
from pointsman.exceptions import ServeException
from pointsman.model import Comparison
from pointsman.model.comparison import Json
from pointsman.telemetry.collector import Collector
from pointsman.telemetry.pairs import CountKey, PairCounter, PairCounts, Wanted
from pointsman.telemetry.writer import MetricsWriter
from pointsman.wire.commands import ShadowTraffic
from pointsman.wire.handover import InstanceSettings
from pointsman.wire.shadows import QueryExamples, QueryShadow
from tests.unit.desiring import SERVED, done

STATE = done(SERVED, ShadowTraffic("id", "e", "two", 0.5, Comparison(Json(), noise=0.5), False))
NAME = STATE.endpoints["e"].policy.compared["two"].name
ONE, TWO = (STATE.backends[tag].version for tag in ("one", "two"))


def key(what: str, *, noise: bool = False, shadow_version: int = TWO) -> CountKey:
    return CountKey("one", ONE, shadow_version, noise, "GET /e", what, "value" if what == "mismatched" else "")


class OtherNode(OneNode):
    """A node that has counted so much, and has these examples."""

    def __init__(self) -> None:
        self.counts: dict[CountKey, int] = {}
        self.scores: list[float] = []
        self.wanted: list[Wanted] = []

    async def read_pairs(self, wanted: Wanted) -> list[PairCounts]:
        self.wanted.append(wanted)
        return [{NAME: dict(self.counts)}] if self.counts else []

    async def read_examples(self, name: str, codes: Collection[str], limit: int) -> list[bytes]:
        made = [Example(str(score), "GET /e", "value", "$.a", score, {}, {}) for score in self.scores]
        return [json.dumps([msgspec.structs.asdict(example) for example in made]).encode()]


def test_nodes_are_added_up(tmp_path: Path) -> None:
    """A report is about all nodes; one that does not answer for a while is not counted twice (SC6)."""

    async def main() -> None:
        node = OtherNode()
        shadows = Shadows(tmp_path / "c", node, lambda: STATE)
        counter = PairCounter(tmp_path / "c" / NAME)
        counter.count(key("matched"), 3)
        counter.count(key("matched", noise=True), 3)
        node.counts = {key("matched"): 2, key("mismatched"): 5, key("matched", noise=True): 5}
        await shadows.read()
        view = shadows.view("e", "two")
        assert sum(one.count for one in view.counts if not one.noise) == 10
        assert sum(tally.pairs for pair, tally in shadows.pairs.items() if not pair.noise) == 10
        first = shadows.above_noise()["e", "two"].e
        assert first > 1

        node.counts, counts = {}, node.counts
        await shadows.read()
        node.counts = counts
        await shadows.read()
        assert shadows.above_noise()["e", "two"].e == first

        for _ in range(20):
            node.counts[key("mismatched")] += 5
            node.counts[key("matched", noise=True)] += 5
            await shadows.read()
        assert shadows.above_noise()["e", "two"].tripped
        counter.close()
        await shadows.aclose()

    asyncio.run(main())


def test_what_a_controller_did_not_see_cannot_decide(tmp_path: Path) -> None:
    """After the controller was killed, what was counted before is still in the report, and is one tick of evidence
    (SC6)."""

    async def main() -> None:
        counter = PairCounter(tmp_path / "c" / NAME)
        counter.count(key("mismatched"), 1000)
        counter.count(key("matched", noise=True), 1000)
        shadows = Shadows(tmp_path / "c", OtherNode(), lambda: STATE)
        await shadows.read()
        above = shadows.above_noise()["e", "two"]
        assert 1 < above.e < above.needed
        assert sum(one.count for one in shadows.view("e", "two").counts) == 2000
        counter.close()
        await shadows.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("error", [OSError("the disk"), RuntimeError("a bug")])
def test_what_cannot_be_read_is_read_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Compared answers cannot be read for a while: that is said once, and the report goes on afterwards (SC6)."""
    monkeypatch.setattr("pointsman.controller.shadows.EVERY_S", 0.001)

    class Failing(OtherNode):
        async def read_pairs(self, wanted: Wanted) -> list[PairCounts]:
            answer = await super().read_pairs(wanted)
            if len(self.wanted) < 4:
                raise error
            return answer

    async def main() -> None:
        node = Failing()
        node.counts = {key("matched"): 2}
        shadows = Shadows(tmp_path / "c", node, lambda: STATE)
        reading = asyncio.ensure_future(shadows.run())
        while not shadows.was_read:
            await asyncio.sleep(0.001)
        assert sum(one.count for one in shadows.view("e", "two").counts) == 2
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await shadows.aclose()

    asyncio.run(main())
    assert len(caplog.records) == 1


def test_a_report_of_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    """A report that cannot be read now is an error in words, and no bug of the controller (SC6)."""

    class Failing(OtherNode):
        async def read_pairs(self, wanted: Wanted) -> list[PairCounts]:
            raise OSError("the disk is gone")

        async def read_examples(self, name: str, codes: Collection[str], limit: int) -> list[bytes]:
            raise OSError("the disk is gone")

    async def main() -> None:
        shadows = Shadows(tmp_path / "c", Failing(), lambda: STATE)
        nothing, engine = cast(Any, None), cast(Any, SimpleNamespace(nodes=OneNode()))
        settings = InstanceSettings(instance="i", name="", master_key=bytes(32))
        commands = Commands(settings, nothing, engine, ingresses=list, shadows=shadows)
        for query in (QueryShadow("id", "e", "two"), QueryExamples("id", "e", "two", 10)):
            with pytest.raises(ServeException, match="what was compared cannot be read: the disk is gone"):
                await commands._shadow(query)
        await shadows.aclose()

    asyncio.run(main())


def test_another_controller_counts_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller was killed: Prometheus sees each compared answer once, also those from before (SC6)."""
    for module in ("evidence", "shadows"):
        monkeypatch.setattr(f"pointsman.controller.{module}.EVERY_S", 0.01)
    page = Collector(tmp_path / "m", clock=lambda: 0.0)

    def shown() -> float:
        metric = page.collect().get("serve_shadow_pairs_total")
        return sum(numbers[0] for numbers in metric.series.values()) if metric is not None else 0.0

    class Slow(OneNode):
        """Answers after the first reading of what routers have counted."""

        def __init__(self) -> None:
            self.heard = asyncio.Event()

        async def read_pairs(self, wanted: Wanted) -> list[PairCounts]:
            await self.heard.wait()
            return []

    async def control(counter: PairCounter) -> None:
        writer, nodes = MetricsWriter(tmp_path / "m", "controller"), Slow()
        controller = cast(Any, SimpleNamespace(desired=STATE, observed=None, update=None))
        path = str(tmp_path / "s" / "socket")
        judging = Judging(controller, instance="i", control_path=path, nodes=nodes, writer=writer, exporter=None)
        judging.evidence.subscribe(lambda evidence: nodes.heard.set())
        judging.start()
        while not judging.shadows.was_read:
            await asyncio.sleep(0.001)
        before = judging.evidence.evidence()
        while judging.evidence.evidence().at <= before.at + 0.02:  # it has been shown
            await asyncio.sleep(0.001)
        known = shown()
        counter.count(key("matched"))
        while shown() == known:
            await asyncio.sleep(0.001)
        await judging.aclose()
        writer.close()

    for folder in ("m", "s"):
        (tmp_path / folder).mkdir()
    counter = PairCounter(pairs_folder(str(tmp_path / "s" / "socket")) / NAME)
    counter.count(key("matched"), 3)
    for controllers in (1, 2):
        asyncio.run(control(counter))
        assert shown() == controllers
    counter.close()
    page.close()


def test_new_code_and_the_end_of_a_comparison(tmp_path: Path) -> None:
    """With new code a report is empty until its first pairs; when nothing is compared, nothing is left (SC8, SC12)."""

    async def main() -> None:
        state: list[Desired] = [STATE]
        node = OtherNode()
        shadows = Shadows(tmp_path / "c", node, lambda: state[0])
        counter = PairCounter(tmp_path / "c" / NAME)
        counter.count(key("mismatched"), 10)
        counter.count(key("matched", noise=True), 10)
        await shadows.read()
        assert shadows.above_noise()["e", "two"].e > 1
        newer = msgspec.structs.replace(STATE.backends["two"], version=TWO + 1)
        state[0] = msgspec.structs.replace(STATE, backends={**STATE.backends, "two": newer})
        await shadows.read()
        assert shadows.view("e", "two").counts == ()
        assert shadows.above_noise()["e", "two"].e == 1
        counter.close()

        state[0] = done(STATE, ShadowTraffic("id", "e", "two", 0.0))
        await shadows.read()
        assert (shadows.pairs, list((tmp_path / "c").iterdir())) == ({}, [])
        assert node.wanted[-1] == {}
        PairCounter(tmp_path / "c" / NAME).close()  # by a router that has the table from before
        await shadows.read()
        assert list((tmp_path / "c").iterdir()) == []
        for _ in range(SWEEPS):
            await shadows.read()
        asked = len(node.wanted)
        await shadows.read()
        assert len(node.wanted) == asked  # nothing is read where nothing is compared
        with pytest.raises(ValueError, match="'two'"):
            shadows.view("e", "two")
        await shadows.aclose()

    asyncio.run(main())


def test_examples_of_all_nodes_are_worst_first(tmp_path: Path) -> None:
    """Examples of several nodes are one list (SC7)."""

    async def main() -> None:
        node = OtherNode()
        node.scores = [0.1, 0.9]
        shadows = Shadows(tmp_path / "c", node, lambda: STATE)
        assert [one["score"] for one in json.loads(await shadows.examples("e", "two", 10))] == [0.1, 0.9]
        assert len(json.loads(await shadows.examples("e", "two", 1))) == 1
        await shadows.aclose()

    asyncio.run(main())
