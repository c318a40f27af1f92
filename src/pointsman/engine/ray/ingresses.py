"""Which nodes have ingresses, and keeping them there: the node of ``start``, or every node there is."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from pointsman.engine.child import pack_handover
from pointsman.engine.ray.actors import Actors, Ending, Wanted
from pointsman.engine.ray.hosts import Birth
from pointsman.engine.ray.names import control_path_of, ingress_name
from pointsman.wire.auth import ROLE_INGRESS, derive_key
from pointsman.wire.handover import ClusterHandover, IngressHandover

RESTART_FIRST_S = 0.1
RESTART_LAST_S = 10.0
STEADY_S = 5.0
"""One that lived this long is started again without delay."""


class Ingresses:
    """The ingresses of one instance.

    Args:
        given: of the instance.
        actors: makes and watches them.
    """

    def __init__(self, given: ClusterHandover, actors: Actors) -> None:
        self._given = given
        self._actors = actors
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[str, str] = {}
        """Name of an ingress -> its node: all that are wanted."""
        self._begun: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    @property
    def wanted(self) -> Collection[str]:
        """Names of all that there should be."""
        return self._nodes.keys()

    def adopt(self, living: Collection[str]) -> None:
        """Take over those that an earlier controller has started."""
        for name in living:
            if name.startswith("ingress-"):
                self._actors.adopt(name)

    def keep_up(self, nodes: Collection[str]) -> None:
        """Start what is missing on these nodes, which are all that live; end what is on others."""
        given = self._given
        homes = list(nodes) if given.every_node else [node for node in nodes if node == given.home]
        wanted = {ingress_name(n, i): n for n in homes for i in range(given.ingresses)} if given.http else {}
        gone, self._nodes = self._nodes.keys() - wanted.keys(), wanted
        for name in gone:
            self._failures.pop(name, None)
            self._actors.kill(name)
        for name in wanted:
            if not self._actors.is_known(name) and name not in self._failures:
                self._start(name)

    def ended(self, name: str, ending: Ending, *, restart: bool) -> bool:
        """An actor has ended; True when it was an ingress that should live, which is then started again."""
        if name not in self._nodes:
            return False
        steady = self._loop.time() - self._begun.get(name, 0.0) > STEADY_S
        failures = self._failures[name] = 0 if steady else self._failures.get(name, -1) + 1
        delay_s = 0.0 if not failures else min(RESTART_LAST_S, RESTART_FIRST_S * 2 ** (failures - 1))
        if restart:
            self._loop.call_later(delay_s, self._start, name)
        return True

    def _start(self, name: str) -> None:
        given, node = self._given, self._nodes.get(name)
        if given.http is None or node is None or self._actors.is_known(name):
            return
        self._begun[name] = self._loop.time()
        handover = IngressHandover(
            instance=given.instance,
            identity=name,
            control_path=control_path_of(given.namespace, given.instance),
            control_key=derive_key(given.master_key, ROLE_INGRESS, name),
            http=given.http,
            log_format=given.log_format,
        )
        self._actors.start(
            Wanted(
                name=name,
                method="be_ingress",
                birth=Birth("ingress", pack_handover(handover), dict(given.environ), given.metrics_host is not None),
                options={"num_cpus": 0},
                node=node,
            )
        )
