"""The controller's orders to an engine, and the engine's events. Schemas; no I/O."""

from __future__ import annotations

from pointsman.model import Allocation, Capacity, Environment, Resources
from pointsman.wire.messages import Message

DRIVER_GONE_DRAIN_S = 1.0
"""How long requests may still run once the driver of a bound instance is gone, or does not want to wait."""


class LaunchOrder(Message, frozen=True):
    """Start a replica process.

    Attributes:
        label: prefix of its log lines on the terminal.
        env: environment variables; they override those of ``environment``.
        handover: the start arguments, passed on unread.
        metadata: launch metadata, kept unread and given to the next controller in ``recovered``.
        environment: the Python environment to run in; None for the instance's own.
        allocation: the resources that it may use, and their node.
        own_env: the backend's environment variables; they override all others.
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
    """An event of an engine.

    ``recovered`` is the first event of a new controller: the replicas and ingresses that live. ``started`` and
    ``exited`` are about one replica, ``ingress_exited`` about an ingress that will be restarted, ``ingress_gone`` about
    one that will not. ``capacity`` comes when nodes join or leave, ``asked_to_end`` when a signal asks for the end of
    the instance, ``asked_what_runs`` when another release wants to take it over.

    Attributes:
        exit: how the process ended, in words.
        live: pid and launch metadata of each replica, by number.
        blameless: the replica's node was lost, so its code is not at fault.
        ingresses: identities of the ingresses that the event is about.
    """

    event: str
    number: int = 0
    pid: int = 0
    exit: str = ""
    live: dict[int, tuple[int, bytes]] = {}
    capacity: Capacity | None = None
    blameless: bool = False
    ingresses: tuple[str, ...] = ()


class ShutdownOrder(Message, frozen=True):
    """End the instance; with ``forget`` delete its stored state too. HTTP servers accept requests for ``delay_s``
    seconds more, then each kind of process has ``drain_s`` seconds to finish."""

    drain_s: float
    forget: bool
    delay_s: float = 0.0
