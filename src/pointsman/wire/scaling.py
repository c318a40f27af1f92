"""Messages and commands about the number of replicas, and the models in them. Schemas; no I/O. The commands are part
of ``commands``."""

from __future__ import annotations

from pointsman.model.scaling import Demand
from pointsman.wire.messages import Command, Message, Signed

DEMAND_PERIOD_S = 0.5
"""Seconds between two DEMAND frames of a router's process with calls."""


class DemandHead(Message, frozen=True):
    """Head of a DEMAND frame, which a router's process sends each half second, and at once when a call finds no
    replica. What has not changed since the last frame, and has no call, may be left out.

    The first frame on a connection says what was counted before it, and so what is not to be added: nothing of a
    process that has just begun.

    Attributes:
        backends: by tag; of those whose route says ``scales``.
    """

    backends: dict[str, Demand]


class ScaleBackend(Signed, frozen=True, tag="scale_backend"):
    """Fix the number of an autoscaled backend's replicas for ``hold_s`` seconds; with 0 it follows the calls again. It
    is a ValueError where the backend is not autoscaled, or the number is not within 0 and its largest. The reply is an
    :class:`~pointsman.wire.commands.Accepted`."""

    tag: str
    replicas: int
    hold_s: float


class WakeBackend(Signed, frozen=True, tag="wake_backend"):
    """Have an unloaded backend loaded again; nothing happens where it has replicas."""

    tag: str


class UnloadBackend(Signed, frozen=True, tag="unload_backend"):
    """Drain a backend to no replicas, until a call or somebody wakes it. It is a ValueError if it may not be at 0:
    neither autoscaled with ``min_replicas`` 0 nor with ``idle_timeout_s``."""

    tag: str


ScalingCommand = ScaleBackend | WakeBackend | UnloadBackend
"""A command that changes the desired state."""


class QueryModels(Command, frozen=True, tag="query_models"):
    """Ask which models a backend's replicas hold; the reply is a :class:`ModelList`."""

    tag: str


class HeldModel(Message, frozen=True):
    """A model that a replica holds. ``bytes`` is 0 where nothing says how large it is; ``in_use`` counts calls and
    streams that use it now; ``idle_s`` is 0 while one does."""

    id: str
    bytes: int
    in_use: int
    idle_s: float


class ModelList(Message, frozen=True):
    """The models of a backend, by tag of the replica."""

    replicas: dict[str, tuple[HeldModel, ...]]


# --- models in a replica ----------------------------------------------------------------------------------------
# A call names its model in its RequestHead. A replica of a backend that loads models by id sends MODELS frames to the
# routers that are connected to it: what it holds when they connect, then each change. The controller asks for details
# by a MODELS frame without a head, and the answer has the call id of the question.

ANY_NUMBER = -1
"""In ``room``: there is no limit to the number of models."""


class ModelsHead(Message, frozen=True):
    """Head of a MODELS frame to a router. A replica sends it before it starts calls that have waited for a model, and
    so before their answers. Calls that wait for a model are in no ``load`` that a replica reports, and take none of its
    ``max_concurrent_queries``.

    Attributes:
        held: ids of models that are loaded; all of them if ``whole``, otherwise those that have become so.
        loading: by id of models that are being loaded, or wait for room: how many calls wait for them, of all routers;
            all if ``whole``, otherwise those whose number has changed, which may be told a tenth of a second late.
        gone: ids of models that are neither any more.
        room: how many more models it could load without giving one up; ``ANY_NUMBER`` where there is no limit. It says
            nothing of sizes.
        load_s: what a load took lately, in seconds, from the wish for it until the model was there; 0 while that is
            not known.
        whole: whether what was told before is to be forgotten.
    """

    held: tuple[str, ...] = ()
    loading: dict[str, int] = {}
    gone: tuple[str, ...] = ()
    room: int = ANY_NUMBER
    load_s: float = 0.0
    whole: bool = False


class ModelDetails(Message, frozen=True):
    """Head of a MODELS frame to the controller: the models that are loaded."""

    models: tuple[HeldModel, ...] = ()
