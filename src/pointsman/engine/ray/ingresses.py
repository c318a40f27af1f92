"""Which nodes have ingresses: the node of ``start``, or every node there is."""

from __future__ import annotations

from collections.abc import Collection

from pointsman.engine.child import pack_handover
from pointsman.engine.ray.actors import Actors, Wanted
from pointsman.engine.ray.hosts import Birth, ProcessHost
from pointsman.engine.ray.names import INGRESS_PREFIX, control_path_of, ingress_name
from pointsman.engine.ray.standing import Standing
from pointsman.limits import MAX_MESSAGE
from pointsman.wire.auth import ROLE_INGRESS, derive_key
from pointsman.wire.handover import ClusterHandover, IngressHandover


class Ingresses(Standing):
    """The ingresses of one instance.

    Args:
        given: of the instance.
        actors: makes and watches them.
    """

    def __init__(self, given: ClusterHandover, actors: Actors) -> None:
        super().__init__(actors, INGRESS_PREFIX)
        self._given = given

    @property
    def homes(self) -> Collection[str]:
        """The nodes that have some."""
        return set(self._nodes.values())

    def keep_up(self, nodes: Collection[str]) -> None:
        """Have them on these nodes, which are all that live, as far as they should be there."""
        given = self._given
        homes = list(nodes) if given.every_node else [node for node in nodes if node == given.home]
        self.want({ingress_name(n, i): n for n in homes for i in range(given.ingresses)} if given.http else {})

    def make(self, name: str, node: str) -> Wanted:
        given = self._given
        assert given.http is not None
        handover = IngressHandover(
            instance=given.instance,
            identity=name,
            control_path=control_path_of(given.namespace, given.instance),
            control_key=derive_key(given.master_key, ROLE_INGRESS, name),
            http=given.http,
            log_format=given.log_format,
        )
        packed = pack_handover(handover, limit=MAX_MESSAGE)
        return Wanted(
            host=ProcessHost,
            name=name,
            method="be_ingress",
            birth=Birth("ingress", packed, dict(given.environ), given.metrics_host is not None),
            options={"num_cpus": 0},
            node=node,
        )
