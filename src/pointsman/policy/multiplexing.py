"""Ids of models, and which replica gets a call that names one. Pure.

Replicas that hold the model come first, the least busy of them. A model that none holds is loaded where rendezvous of
its id says, over the replicas with room for one more: all routers see the same replicas, so their calls meet on one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

from pointsman.policy.balance import Candidate, choose_replica

#: Bytes of UTF-8.
MAX_MODEL_ID = 256
#: Bytes. No machine has so many, and messages can carry it.
MAX_MODEL_SIZE = 2**62
SLOW_LOAD = 2.0
"""A load that takes so many times what loads take is not waited for any more. One that takes a little longer is: it is
likely to end before another would."""

MOST_DEATHS = 3
"""A model is not loaded for a while after so many replicas have died, one after the other, while calls waited for it:
each call for a model that is too large for the machine would end all of them, one by one."""
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 30.0
MOST_FATAL = 200
"""How many models are remembered for that. Callers choose ids."""


def check_model_id(model_id: Any, what: str = "multiplexed_model_id") -> str:
    """Check an id that was given in Python, and return it.

    Raises:
        TypeError: not a str.
        ValueError: empty, over 256 bytes, or not text.
    """
    if not isinstance(model_id, str):
        raise TypeError(f"{what} must be a str, not {model_id!r}")
    try:
        size = len(model_id.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} {model_id!r} cannot be encoded as UTF-8") from None
    if not 1 <= size <= MAX_MODEL_ID:
        raise ValueError(f"{what} {model_id[:20]!r} has {size} bytes of UTF-8, and 1 to {MAX_MODEL_ID} are allowed")
    return model_id


def check_size(model_id: str, size: Any) -> int:
    """Check what ``size_of`` has given for a model, and return it.

    Raises:
        TypeError: no int.
        ValueError: negative, or more than any machine has, which no message could carry.
    """
    try:
        size = operator.index(size)
    except TypeError:
        raise TypeError(f"size_of({model_id!r}) gave {size!r}, and a size is an int, in bytes") from None
    if not 0 <= size < MAX_MODEL_SIZE:
        raise ValueError(f"size_of({model_id!r}) gave {size}, and a size is 0 to 2**62 bytes")
    return size  # type: ignore[no-any-return]


def decode_model_id(value: bytes) -> str | None:
    """The id in a request's header; None if it is none: empty, over 256 bytes, or not UTF-8."""
    if not 1 <= len(value) <= MAX_MODEL_ID:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def hash_of(model_id: str) -> int:
    """A number of 64 bits that stands for an id, the same in all processes."""
    return int.from_bytes(blake2b(model_id.encode(), digest_size=8).digest(), "big")


class FatalLoads:
    """Models whose loads may be what replicas have died of, as far as one router knows.

    Attributes:
        deaths: how many, and until when no load is tried, by model.
    """

    def __init__(self) -> None:
        self.deaths: dict[str, tuple[int, float]] = {}

    def died(self, model_ids: Iterable[str], now: float) -> None:
        """A replica has died in which calls waited for these models."""
        for model_id in model_ids:
            deaths = self.deaths.pop(model_id, (0, 0.0))[0] + 1
            beyond = min(10, deaths - MOST_DEATHS)
            until = now + min(LAST_PAUSE_S, FIRST_PAUSE_S * 2**beyond) if beyond >= 0 else 0.0
            self.deaths[model_id] = deaths, until
            if len(self.deaths) > MOST_FATAL:
                del self.deaths[next(iter(self.deaths))]

    def forget(self, is_held: Callable[[str], object]) -> None:
        """Forget the models that are held somewhere: their loads have ended well."""
        for model_id in [model_id for model_id in self.deaths if is_held(model_id)]:
            del self.deaths[model_id]

    def refuses(self, model_id: str, now: float) -> bool:
        """Whether no load of this model is to be tried now."""
        return now < self.deaths.get(model_id, (0, 0.0))[1]


class ModelCandidate(Candidate, Protocol):
    """A candidate for a call that names a model. The calls that wait in it for models are not ``inflight``.

    Attributes:
        number: of the replica, the same in all routers.
        room: how many more models it could load without giving one up; negative where there is no limit.
        waits_for_room: whether a load waits there because every model is in use.
        waits: how many calls of this router wait there for models.
        load_s: what a load takes there, in seconds; 0 while that is not known.
    """

    @property
    def number(self) -> int: ...

    @property
    def room(self) -> int: ...

    @property
    def waits_for_room(self) -> bool: ...

    @property
    def waits(self) -> int: ...

    @property
    def load_s(self) -> float: ...

    def awaiting(self, model_id: str) -> int | None:
        """How many calls of this router wait there for the model; None if it is not being loaded there."""


L = TypeVar("L", bound=ModelCandidate)


def owner(model_id: str, candidates: Sequence[L]) -> L:
    """The candidate that a model belongs to. One that is added takes its share of the models and moves no other."""
    key = model_id.encode()
    return max(candidates, key=lambda one: blake2b(key + b"\0%d" % one.number, digest_size=8).digest())


def where_to_load(model_id: str, candidates: Sequence[L]) -> L | None:
    """The candidate that is to load a model: where it can do so without giving one up; or else where it need not wait
    until a model is out of use. None without candidates."""
    for fits in (_has_room, _need_not_wait):
        some = [one for one in candidates if fits(one)]
        if some:
            return owner(model_id, some)
    return owner(model_id, candidates) if candidates else None


def choose_loader(
    model_id: str,
    candidates: Sequence[L],
    holders: Sequence[L],
    *,
    limit: int,
    most: int,
    waited_s: float,
    halved: bool = False,
) -> L | None:
    """The candidate that loads a model for a call, or is loading it; None if the call is to wait. Asked where no holder
    has a free place: :func:`~pointsman.policy.balance.choose_replica` finds the least busy of these.

    Args:
        candidates: all replicas of the backend.
        holders: those of them that hold the model.
        most: calls of this router that may wait in one replica for models.
        waited_s: how long the first of those calls for the model that wait in this router has waited.
        limit, halved: as for :func:`~pointsman.policy.balance.choose_replica`.

    A call waits for a holder that is busy for as long as a load takes. Whoever waits longer would have been served
    sooner by a load, so that is what happens then, where a replica has a place for the call, too. So no call waits more
    than twice as long as with the better of both, whatever the calls before it take (as one that rents until the rent
    has reached the price: A. Karlin et al., "Competitive snoopy caching", Algorithmica 3, 1988).
    """
    loading = [one for one in candidates if one.awaiting(model_id) is not None]
    open_ones = [one for one in candidates if one.open and one.waits < most]
    if loading and not holders:
        joined = [one for one in open_ones if one in loading and (one.awaiting(model_id) or 0) < limit]
        if joined:
            return min(joined, key=lambda one: one.awaiting(model_id) or 0)
    others = [one for one in open_ones if one not in holders and one not in loading]
    if holders or loading:
        wait_s = _patience_s(holders, loading)
        if wait_s is None or waited_s < wait_s:
            return None
        others = [one for one in others if choose_replica([one], limit=limit, turn=0, halved=halved) is not None]
    return where_to_load(model_id, others)


def patience_s(model_id: str, candidates: Sequence[ModelCandidate], holders: Sequence[ModelCandidate]) -> float | None:
    """How long calls wait for the replicas that have a model, or load it, before another loads it, too. None where
    there are none, or nobody knows what a load takes."""
    return _patience_s(holders, [one for one in candidates if one.awaiting(model_id) is not None])


def _patience_s(holders: Sequence[ModelCandidate], loading: Sequence[ModelCandidate]) -> float | None:
    load_s = max((one.load_s for one in (*holders, *loading)), default=0.0)
    return (SLOW_LOAD * load_s if loading else load_s) or None


def _has_room(one: ModelCandidate) -> bool:
    return one.room != 0 and not one.waits_for_room


def _need_not_wait(one: ModelCandidate) -> bool:
    return not one.waits_for_room
