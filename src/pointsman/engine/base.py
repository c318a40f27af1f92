"""The interfaces of an engine: for the controller while an instance runs, and for the driver that starts one.

Every method of :class:`Engine` returns at once; its result arrives as an event. An engine knows processes by number and
does not read the handovers that it passes on.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pointsman.engine.orders import LaunchOrder, ProcessEvent, ShutdownOrder
from pointsman.model import Capacity, Resources
from pointsman.wire.handover import InstanceSettings

if TYPE_CHECKING:
    from pointsman.telemetry.counted import Counted
    from pointsman.telemetry.pairs import PairCounts, Wanted
    from pointsman.telemetry.reports import Reading

EventSink = Callable[[ProcessEvent], None]


class Engine(Protocol):
    """What the controller needs of an engine."""

    async def start(self) -> None:
        """Start to watch processes; ``recovered`` is the first event."""

    def launch(self, order: LaunchOrder) -> None:
        """Start a replica process; ``started`` or ``exited`` follows."""

    def kill(self, number: int) -> None:
        """Kill a process; ``exited`` follows."""

    def is_stopped(self, pid: int) -> bool:
        """True if a process is known to be stopped by a signal; False if that is unknown."""

    def shutdown(self, order: ShutdownOrder) -> None:
        """End the instance, the controller last. A second order with less time shortens the drain that is running."""

    async def aclose(self) -> None:
        """Close this process's connections to the engine. Processes are left as they are."""

    @property
    def ingresses_wanted(self) -> int:
        """How many ingress processes there should be."""

    @property
    def nodes(self) -> Nodes:
        """The nodes of the instance."""


class Nodes(Protocol):
    """The nodes of an instance, as the controller uses them."""

    def disconnected(self, number: int) -> None:
        """A replica's connection to the controller has broken, perhaps because its node is lost."""

    async def refresh(self) -> None:
        """Read what is free on nodes that others use too; a ``capacity`` event follows if it changed."""

    def request_nodes(self, who: str, needs: Sequence[tuple[Resources, int]]) -> None:
        """Request nodes for so many more replicas from the cluster's autoscaler, if there is one. This replaces what
        ``who`` has requested before; nothing takes it back."""

    @property
    def metrics_addresses(self) -> dict[str, str]:
        """The base URLs of metrics on nodes other than the controller's, by node."""

    async def read_metrics(self) -> list[Reading]:
        """The current metrics of those nodes; nodes that do not answer are left out."""

    async def read_pairs(self, wanted: Wanted) -> list[PairCounts]:
        """What was counted there of these comparisons; those of no other exist afterwards."""

    async def read_examples(self, name: str, codes: Collection[str], limit: int) -> list[bytes]:
        """Examples of a comparison of this code there: lists in JSON, the worst first."""

    async def read_tallies(self, metrics: Collection[str]) -> dict[str, Counted]:
        """What was counted on those nodes up to now, by node, with these metrics of user code; nodes that do not answer
        are left out."""


class OneNode:
    """The nodes of the local engine: this machine only. All methods do nothing, since the supervisor reports exits."""

    def disconnected(self, number: int) -> None:
        pass

    async def refresh(self) -> None:
        pass

    def request_nodes(self, who: str, needs: Sequence[tuple[Resources, int]]) -> None:
        pass

    @property
    def metrics_addresses(self) -> dict[str, str]:
        return {}

    async def read_metrics(self) -> list[Reading]:
        return []

    async def read_pairs(self, wanted: Wanted) -> list[PairCounts]:
        return []

    async def read_examples(self, name: str, codes: Collection[str], limit: int) -> list[bytes]:
        return []

    async def read_tallies(self, metrics: Collection[str]) -> dict[str, Counted]:
        return {}


ONE_NODE = OneNode()


class Cluster(NamedTuple):
    """The Ray cluster to use.

    Attributes:
        address: of its head, or ``local`` for a new one. None for the cluster of this process, else one that runs on
            this machine, else a new one.
        allow_insecure: whether a cluster without authentication is accepted.
        wait_for_resources_s: how long a change may wait for nodes to join.
        amounts: the resources of a cluster that is started here, by argument of ``start``; only those that were given.
    """

    address: str | None = None
    allow_insecure: bool = False
    wait_for_resources_s: float = 0.0
    amounts: Mapping[str, Any] = {}


ANY_CLUSTER = Cluster()


class Plan(NamedTuple):
    """The instance to start.

    Attributes:
        settings: options of ``start``.
        bound: whether it ends with this process.
        capacity: the resources that it may give to replicas, on the local engine.
        every_node: whether each node has ingresses, or only the node of this process.
        cluster: the cluster to use, on the Ray engine.
        json_lines: whether each line that a bound instance prints is one JSON object, on standard output. On the local
            engine.
        listener: the listening socket for HTTP; None to make one. On the local engine.
    """

    settings: InstanceSettings
    bound: bool
    capacity: Capacity
    every_node: bool = False
    cluster: Cluster = ANY_CLUSTER
    json_lines: bool = False
    listener: socket.socket | None = None


class Address(NamedTuple):
    """How to connect to an instance as its operator.

    Attributes:
        control_path: the socket of its controller, or ``ray:`` and its name in the cluster.
        key: the operator's key.
        secure: whether the HTTP port has TLS.
        console: base URL of the console; empty without one.
    """

    instance: str
    control_path: str
    key: bytes
    http_host: str | None
    http_port: int
    request_timeout_s: float
    metrics_host: str | None = None
    metrics_port: int = 0
    secure: bool = False
    console: str = ""


def url(host: str | None, port: int, *, secure: bool = False) -> str | None:
    """The base URL of a host and port, ``secure`` for HTTPS; None without a host."""
    if host is None:
        return None
    return f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{port}"


class Raised(Protocol):
    """An instance that this process has started."""

    @property
    def address(self) -> Address: ...

    @property
    def bound(self) -> bool:
        """Whether the instance ends with this process."""

    def serves(self) -> None:
        """The instance is ready: release what was reserved for it until then."""

    def refusal(self) -> str:
        """Why the controller refuses to start, in its own words; empty if it does not."""

    @property
    def over(self) -> bool:
        """True once the end of the instance was waited for."""

    def before_exit(self, action: Callable[[], object]) -> None:
        """Call ``action`` at the exit of this interpreter, while the instance can still be reached."""

    def let_go(self) -> None:
        """End a bound instance within a second, even if it is draining already. Does nothing in a forked child, or when
        called again."""

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait for the end of the instance, and kill it at the timeout; returns False then. Returns at once in a forked
        child."""

    def release(self) -> None:
        """The instance has ended: free what this process holds for it."""
