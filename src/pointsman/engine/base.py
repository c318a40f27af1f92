"""The seams of an engine: what the controller asks of it while an instance runs, and what a driver gets from it when it
raises one.

Every method of :class:`Engine` returns at once; what came of it arrives as an event. An engine knows processes by
number and never looks into what it hands over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from pointsman.engine.orders import LaunchOrder, ProcessEvent, ShutdownOrder
from pointsman.model import Capacity, Resources
from pointsman.telemetry.reports import Reading
from pointsman.wire.handover import InstanceSettings

EventSink = Callable[[ProcessEvent], None]


class Engine(Protocol):
    """What the controller asks for."""

    async def start(self) -> None:
        """Begin; ``recovered`` is the first event."""

    def launch(self, order: LaunchOrder) -> None:
        """Start a replica process; ``started`` or ``exited`` follows."""

    def kill(self, number: int) -> None:
        """End a process now; ``exited`` follows."""

    def is_stopped(self, pid: int) -> bool:
        """Whether a process is known to be stopped by a signal; False where that cannot be told."""

    def shutdown(self, order: ShutdownOrder) -> None:
        """End the whole instance, the controller last. Ordered again, with less time: what still drains has that much
        from now on."""

    async def aclose(self) -> None:
        """Close what connects this process to those that it has asked; they are not told anything."""

    @property
    def ingresses_wanted(self) -> int:
        """How many ingress processes there should be."""

    @property
    def nodes(self) -> Nodes:
        """The nodes that it uses."""


class Nodes(Protocol):
    """What an engine knows of its nodes, and asks of them."""

    def disconnected(self, number: int) -> None:
        """A replica's connection to the controller has broken, as it also does when its node is gone."""

    async def refresh(self) -> None:
        """Look at what the nodes have for us now, where others use them too; a ``capacity`` event tells."""

    def request_nodes(self, resources: Resources | None, count: int) -> None:
        """Have nodes added for so many replicas, where nodes can be; None and 0 take that back."""

    @property
    def metrics_addresses(self) -> dict[str, str]:
        """Where metrics are served on nodes other than the controller's: node -> base URL."""

    async def read_metrics(self) -> list[Reading]:
        """What is counted there now; nodes that do not answer are left out."""


class OneNode:
    """This machine, which stays as it is, and whose processes the supervisor tells of."""

    def disconnected(self, number: int) -> None:
        pass

    async def refresh(self) -> None:
        pass

    def request_nodes(self, resources: Resources | None, count: int) -> None:
        pass

    @property
    def metrics_addresses(self) -> dict[str, str]:
        return {}

    async def read_metrics(self) -> list[Reading]:
        return []


ONE_NODE = OneNode()


class Cluster(NamedTuple):
    """Which Ray cluster is meant.

    Attributes:
        address: its head's, or ``local`` for a new one; None for the one that this process is in, one that runs on
            this machine, or a new one.
        allow_insecure: whether it may let in whoever reaches it.
        wait_for_resources_s: how long a change may wait for nodes to join.
        amounts: what a cluster that is to be started has, by the name of the argument of ``start``; only what is given.
    """

    address: str | None = None
    allow_insecure: bool = False
    wait_for_resources_s: float = 0.0
    amounts: Mapping[str, Any] = {}


ANY_CLUSTER = Cluster()


class Plan(NamedTuple):
    """What to raise.

    Attributes:
        settings: what the instance was told.
        bound: whether it ends with this process.
        capacity: what it may hand out, on the local engine.
        every_node: whether each node has ingresses, or only the one of this process.
        cluster: where, on the Ray engine.
    """

    settings: InstanceSettings
    bound: bool
    capacity: Capacity
    every_node: bool = False
    cluster: Cluster = ANY_CLUSTER


class Address(NamedTuple):
    """How to reach an instance as its operator. ``control_path`` is where its controller listens, or ``ray:`` and what
    the cluster knows the instance by."""

    instance: str
    control_path: str
    key: bytes
    http_host: str | None
    http_port: int
    request_timeout_s: float
    metrics_host: str | None = None
    metrics_port: int = 0


def url(host: str | None, port: int) -> str | None:
    """Base URL of what an instance serves by HTTP; None where it does not."""
    if host is None:
        return None
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Raised(Protocol):
    """An instance that this process has raised."""

    @property
    def address(self) -> Address: ...

    @property
    def bound(self) -> bool:
        """Whether the instance ends with this process."""

    def serves(self) -> None:
        """It is ready: what was kept for it until then can be given up."""

    def refusal(self) -> str:
        """Why it says that it cannot come up; empty where it does not say so."""

    @property
    def over(self) -> bool:
        """Whether its end has been waited for."""

    def before_exit(self, action: Callable[[], object]) -> None:
        """Have something done at the exit of this interpreter, while the instance can still be reached."""

    def let_go(self) -> None:
        """Give a bound instance no more than a second to end, also when it is ending already. Does nothing in a forked
        child, or a second time."""

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait for the instance to end, killing it when it does not; False when it had to be killed. Returns at once in
        a forked child."""

    def release(self) -> None:
        """It has ended, and nothing of this process uses it any more."""
