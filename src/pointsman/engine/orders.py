"""What the controller orders of an engine, and what an engine tells it. Schemas; no I/O."""

from __future__ import annotations

from pointsman.model import Allocation, Capacity, Environment, Resources
from pointsman.wire.messages import Message

DRIVER_GONE_DRAIN_S = 1.0
"""How long requests may still run once the driver of a bound instance is gone, or does not want to wait."""


class LaunchOrder(Message, frozen=True):
    """Start a replica process.

    Attributes:
        label: prefixes its log lines.
        env: variables that win over those of the environment.
        own_env: the backend's own, which win over all others.
        handover: written into its pipe unread.
        note: kept unread and given to the next controller in ``recovered``.
        environment: whose interpreter it is; None for the instance's own.
        allocation: what it may use, and of which node.
    """

    number: int
    label: str
    env: dict[str, str]
    handover: bytes
    metadata: bytes
    environment: Environment | None = None
    allocation: Allocation = Allocation(Resources())
    own_env: dict[str, str] = {}


class KillOrder(Message, frozen=True):
    number: int


class ProcessEvent(Message, frozen=True):
    """``started`` or ``exited`` for one replica, ``ingress_exited`` for one ingress that will be started again,
    ``ingress_gone`` for one that will not, ``capacity`` when nodes have come or gone, ``asked_to_end`` when a signal
    asks for the end of the instance, or ``recovered``, which a new controller gets before any other event: every
    replica process and every ingress that lives."""

    event: str
    number: int = 0
    pid: int = 0
    exit: str = ""
    live: dict[int, tuple[int, bytes]] = {}
    """Number -> pid and note."""
    capacity: Capacity | None = None
    blameless: bool = False
    """Whether it ended through no fault of its own: its node is gone."""
    ingresses: tuple[str, ...] = ()
    """Identities of the ingresses that are meant."""


class ShutdownOrder(Message, frozen=True):
    """End the instance; with ``forget`` for good, the stored state included."""

    drain_s: float
    forget: bool
