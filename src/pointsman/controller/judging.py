"""What a controller makes of the evidence: reads it, judges rollouts and shadows, and shows both to Prometheus.

evidence (of routers), shadows (of comparers) -> each second -> rollouts, metrics; and whoever asks
"""

from __future__ import annotations

import asyncio
import logging

from pointsman.controller.controller import Controller
from pointsman.controller.evidence import EvidenceReader
from pointsman.controller.rollouts.metrics import RolloutMetrics
from pointsman.controller.rollouts.watch import RolloutWatch
from pointsman.controller.shadows import Shadows
from pointsman.controller.state import Desired
from pointsman.engine.base import Nodes
from pointsman.engine.instances import pairs_folder, tallies_folder
from pointsman.model.evidence import Evidence, TallyKey
from pointsman.telemetry.exporter import Exporter
from pointsman.telemetry.writer import MetricsWriter

log = logging.getLogger(__name__)


class Judging:
    """Reads and judges, each second. Needs a running loop.

    Args:
        controller: whose desired state says what is judged, and which carries verdicts out.
        instance: id of the instance.
        control_path: of the instance, in whose folder things are counted.
        nodes: the other ones.
        writer: of the controller's metrics; None if nothing is recorded.
        exporter: collects this node's metrics; None as above.

    Attributes:
        evidence: what routers have counted.
        shadows: what has come of comparing shadows' answers.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        instance: str,
        control_path: str,
        nodes: Nodes,
        writer: MetricsWriter | None,
        exporter: Exporter | None,
    ) -> None:
        self._controller = controller
        self.shadows = Shadows(pairs_folder(control_path), nodes, lambda: controller.desired)
        self.evidence = EvidenceReader(
            tallies_folder(control_path),
            nodes=nodes,
            exists=self._exists,
            pairs=lambda: self.shadows.pairs,
            metrics=lambda: metrics_watched(controller.desired),
            exporter=exporter,
        )
        self._rollouts = RolloutWatch(
            instance, desired=lambda: controller.desired, observed=controller.observed, update=controller.update
        )
        self._metrics = RolloutMetrics(writer) if writer is not None else None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to read."""
        self.evidence.subscribe(self._rollouts.heard)
        self.evidence.subscribe(self._show)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.shadows.run()), loop.create_task(self.evidence.run())]
        for task in self._tasks:
            task.add_done_callback(_start_again_if_failed)

    async def aclose(self) -> None:
        """Return when what was begun is done. Before the controller ends, which carries verdicts out."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._rollouts.aclose()
        await self.shadows.aclose()
        await self.evidence.aclose()

    def _exists(self, key: TallyKey) -> bool:
        desired = self._controller.desired
        return key.endpoint in desired.endpoints and key.backend in desired.backends

    def _show(self, evidence: Evidence) -> None:
        if self._metrics is not None:
            pairs = self.shadows.pairs if self.shadows.was_read else None
            self._metrics.show(self._controller.desired, pairs, self.shadows.above_noise())


def metrics_watched(desired: Desired) -> frozenset[str]:
    """The metrics of user code by which rollouts are judged."""
    live = [rollout for rollout in desired.rollouts.values() if rollout.is_live]
    return frozenset(name for rollout in live for name in rollout.plan.gates.get("metrics", ()))


def _start_again_if_failed(reading: asyncio.Task[None]) -> None:
    if not reading.cancelled() and reading.exception() is not None:
        # A bug: without evidence nothing is judged, and a new controller may read what this one could not.
        log.critical("what routers have counted is not read any more", exc_info=reading.exception())
        raise SystemExit(1)
