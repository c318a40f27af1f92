"""Who gets room where there is too little for all. Pure.

    share       gives free room out, one replica at a time, to whoever has the best claim
    make_room   which replicas of lower priority leave for one of higher priority
    to_unload   which idle backends are unloaded for one that has to start
    held_against   what other backends hold that one which is created or changed cannot have

What a backend has been promised comes first: ``num_replicas``, or ``min_replicas`` of an autoscaled one, which nobody
has to give up. Beyond that copies of calls come last, then higher priority first, and among equals whoever has the
least part of what it wants.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Set
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from pointsman.controller.allocation import CapacityLedger
from pointsman.controller.observed import Observed
from pointsman.controller.replicas import Replica
from pointsman.controller.scaling.idle import idle_s, is_spare
from pointsman.controller.state import Desired, FreeCapacity
from pointsman.model import Allocation, BackendSpec, Resources

#: A backend that has had no call for so long may be unloaded for another.
SPARE_S = 1.0

Pick = Callable[[list[Replica], int], list[Replica]]
"""Which of a backend's replicas go first, and how many."""


@dataclass
class Need:
    """A backend that lacks replicas.

    Attributes:
        missing: how many may be launched now.
        granted: how many it has.
        old: how many of an older version it has, which go once the new ones are there.
        movable: those of them of which one makes way where there is no room beside it.
    """

    spec: BackendSpec
    missing: int
    granted: int
    old: int = 0
    movable: list[Replica] = field(default_factory=list)


class Shared(NamedTuple):
    """What became of the needs.

    Attributes:
        launches: allocations for new replicas, by backend.
        short: backends that got less than they need.
        leaving: replicas that make room.
        taken: what was taken of the ledger, to be given back.
        claims: what is being freed for somebody, by the standing of who waits for it.
    """

    launches: dict[str, list[Allocation]]
    short: set[str]
    leaving: list[Replica]
    taken: list[Allocation]
    claims: list[tuple[tuple[bool, int], Allocation]]


def promised(tag: str, desired: Desired) -> int:
    """How many replicas of those that are wanted a backend may count on."""
    wanted, autoscaling = desired.wanted(tag), desired.backends[tag].config.autoscaling
    least = wanted if autoscaling is None or autoscaling.dry_run else autoscaling.min_replicas
    return min(wanted, max(least, desired.needed(tag)) if tag in desired.fallbacks else least)


class Standing:
    """How backends rank in a shortage: after all others those that get copies of calls alone, then by priority, which
    is 0 where they are not autoscaled."""

    def __init__(self, desired: Desired) -> None:
        policies = [endpoint.policy for endpoint in desired.endpoints.values()]
        copies = {tag for policy in policies for tag in policy.shadows}
        if copies:
            copies -= {tag for policy in policies for tag, weight in policy.weights.items() if weight}
        if copies:  # there may be many pins
            copies -= {tag for pins in desired.pins.values() for tag in pins.keys.values()}
        self._copies = copies

    def of(self, spec: BackendSpec) -> tuple[bool, int]:
        """What a backend ranks by; the largest comes first."""
        autoscaling = spec.config.autoscaling
        return spec.tag not in self._copies, autoscaling.priority if autoscaling is not None else 0


def share(needs: list[Need], desired: Desired, observed: Observed, ledger: CapacityLedger, pick: Pick) -> Shared:
    """Give out what is free.

    Args:
        ledger: what is free; all that is in the result's ``taken`` has been taken of it.
        pick: says which replicas of a backend go first.
    """
    shared = Shared({}, set(), [], [], [])
    if _all_fit(needs, ledger, shared):  # nearly always, and who comes first does not matter then
        return shared
    standing = Standing(desired)

    def rank(need: Need, launched: int) -> tuple[bool, bool, int, float]:
        tag, has = need.spec.tag, need.granted + need.old + launched
        serves_users, priority = standing.of(need.spec)
        return has >= promised(tag, desired), not serves_users, -priority, has / max(1, desired.wanted(tag))

    queue = [(rank(need, 0), index, 0) for index, need in enumerate(needs) if need.missing > 0]
    heapq.heapify(queue)
    while queue:
        _, index, launched = heapq.heappop(queue)
        need = needs[index]
        _withhold(shared, standing.of(need.spec), ledger)
        allocation = ledger.place(need.spec.resources)
        if allocation is None:
            shared.short.add(need.spec.tag)
            count = need.missing - launched - need.old
            leaving, claims = make_room(need, count, desired, observed, shared, standing, pick)
            shared.leaving.extend(leaving)
            shared.claims.extend((standing.of(need.spec), claim) for claim in claims)
            continue
        shared.launches.setdefault(need.spec.tag, []).append(allocation)
        shared.taken.append(allocation)
        if launched + 1 < need.missing:
            heapq.heappush(queue, (rank(need, launched + 1), index, launched + 1))
    return shared


def _all_fit(needs: list[Need], ledger: CapacityLedger, shared: Shared) -> bool:
    """Give all of them what they need; nothing is given out if that is not possible."""
    for need in needs:
        for _ in range(need.missing):
            allocation = ledger.place(need.spec.resources)
            if allocation is None:
                _free(ledger, shared.taken)
                shared.launches.clear()
                shared.taken.clear()
                return False
            shared.launches.setdefault(need.spec.tag, []).append(allocation)
            shared.taken.append(allocation)
    return True


def _withhold(shared: Shared, standing: tuple[bool, int], ledger: CapacityLedger) -> None:
    """Take what is being freed for others of higher standing off what is free for one of this standing. Among equals
    what fits starts."""
    withheld = [claim for whose, claim in shared.claims if whose > standing]
    if withheld:
        shared.claims[:] = [(whose, claim) for whose, claim in shared.claims if whose <= standing]
        _take(ledger, withheld)
        shared.taken.extend(withheld)


def make_room(
    need: Need,
    count: int,
    desired: Desired,
    observed: Observed,
    shared: Shared,
    standing: Standing,
    pick: Pick,
) -> tuple[list[Replica], list[Allocation]]:
    """Which replicas of lower priority leave, so that ``count`` replicas find room once they are gone; and what these
    will have. None leaves for what replicas that leave already will free.

    Args:
        shared: what was given out before.
    """
    going = {replica.number for replica in shared.leaving}
    candidates = [r for r in _lower(need.spec, desired, observed, standing, pick) if r.number not in going]
    if not candidates and not going:
        return [], []
    stays = [r.allocation for r in observed.replicas.values() if _stays(r) and r.number not in going]
    claimed = [claim for _, claim in shared.claims]
    ledger = CapacityLedger(observed.capacity, [*stays, *shared.taken, *claimed])
    leaving: list[Replica] = []
    claims: list[Allocation] = []
    for _ in range(count):
        victims = _fewest(need.spec.resources, ledger, candidates)
        if victims is None:
            break
        for victim in victims:
            ledger.give_back(victim.allocation)
            candidates.remove(victim)
        leaving += victims
        claim = ledger.place(need.spec.resources)
        assert claim is not None
        claims.append(claim)
    return leaving, claims


def _stays(replica: Replica) -> bool:
    return replica.is_current and not replica.killed


def _lower(spec: BackendSpec, desired: Desired, observed: Observed, standing: Standing, pick: Pick) -> list[Replica]:
    """The replicas of lower priority beyond what their backends have been promised, the first to go first."""
    found: list[tuple[tuple[bool, int], float, list[Replica]]] = []
    mine_is = standing.of(spec)
    for tag, other in desired.backends.items():
        if standing.of(other) >= mine_is:
            continue
        mine = [replica for replica in observed.of(tag) if _stays(replica)]
        if any(replica.adopted for replica in mine):
            continue  # whether one serves is not known yet
        spare = pick(mine, len(mine) - promised(tag, desired))
        found.append((standing.of(other), -len(mine) / max(1, desired.wanted(tag)), spare))
    return [replica for _, _, spare in sorted(found, key=lambda one: one[:2]) for replica in spare]


def _fewest(resources: Resources, ledger: CapacityLedger, candidates: list[Replica]) -> list[Replica] | None:
    """The fewest of the candidates whose room, on one node, suffices for a replica; the ledger is as before."""
    if _fits(resources, ledger):
        return []
    best: list[Replica] | None = None
    for node in dict.fromkeys(replica.allocation.node for replica in candidates):
        there = [replica for replica in candidates if replica.allocation.node == node]
        chosen = _enough([[one.allocation] for one in there], lambda: _fits(resources, ledger), ledger)
        if chosen is not None and (best is None or len(chosen) < len(best)):
            best = [there[index] for index in chosen]
    return best


def _enough(groups: list[list[Allocation]], suffices: Callable[[], bool], ledger: CapacityLedger) -> list[int] | None:
    """Which of these to free, the first ones rather than others and none without need, until that suffices; None if
    all do not. The ledger is as before."""
    chosen: list[int] = []
    for index, group in enumerate(groups):
        _free(ledger, group)
        chosen.append(index)
        if suffices():
            break
    enough = suffices()
    for index in reversed(chosen[:-1]) if enough else ():
        _take(ledger, groups[index])
        if suffices():
            chosen.remove(index)  # what was freed after it is enough alone
        else:
            _free(ledger, groups[index])
    for index in chosen:
        _take(ledger, groups[index])
    return chosen if enough else None


def _free(ledger: CapacityLedger, group: list[Allocation]) -> None:
    for allocation in group:
        ledger.give_back(allocation)


def _take(ledger: CapacityLedger, group: list[Allocation]) -> None:
    for allocation in group:
        ledger.take(allocation)


def _fits(resources: Resources, ledger: CapacityLedger, count: int = 1) -> bool:
    return _places(resources, ledger, count) == count


def _places(resources: Resources, ledger: CapacityLedger, count: int) -> int:
    """For how many replicas, up to ``count``, there is room. The ledger is as before."""
    placed: list[Allocation] = []
    while len(placed) < count and (allocation := ledger.place(resources)) is not None:
        placed.append(allocation)
    _free(ledger, placed)
    return len(placed)


def to_unload(
    desired: Desired, observed: Observed, now: float, time: str, woken: Collection[str] = ()
) -> dict[str, str]:
    """The idle backends to unload so that others can start, each with the backend that it makes room for.

    Only one that has no room for its first replicas, those that it has been promised or the one that its calls wait
    for, may have others unloaded, of no higher priority. The least recently used go first, and none without need.

    Args:
        time: of the day.
        woken: backends that are woken just now, which no plan has looked at yet.
    """
    starting = list(_starting(desired, observed, observed.short.union(woken)))
    if not starting:
        return {}
    stays = [replica.allocation for replica in observed.replicas.values() if _stays(replica)]
    ledger = CapacityLedger(observed.capacity, stays)
    found: dict[str, str] = {}
    standing = Standing(desired)
    for tag, missing in sorted(starting, key=lambda one: standing.of(desired.backends[one[0]]), reverse=True):
        spec, busy = desired.backends[tag], {one for one, _ in starting} | found.keys()
        for unloaded in _unloaded_for(spec, missing, ledger, busy, desired, observed, standing, now, time):
            found[unloaded] = tag
            _free(ledger, [replica.allocation for replica in observed.of(unloaded) if _stays(replica)])
        for _ in range(missing):
            ledger.place(spec.resources)
    return found


def _starting(desired: Desired, observed: Observed, tags: Set[str]) -> Iterator[tuple[str, int]]:
    """Those of the backends that lack some of their first replicas, and how many."""
    for tag in sorted(tags & desired.backends.keys()):
        spec = desired.backends[tag]
        mine = [replica for replica in observed.of(tag) if _stays(replica)]
        first = min(desired.wanted(tag), max(1, promised(tag, desired)))
        if len(mine) < first and all(replica.version == spec.version for replica in mine):
            yield tag, first - len(mine)


def _unloaded_for(
    spec: BackendSpec,
    missing: int,
    ledger: CapacityLedger,
    busy: Collection[str],
    desired: Desired,
    observed: Observed,
    standing: Standing,
    now: float,
    time: str,
) -> list[str]:
    """The backends to unload for so many replicas, or for as many of them as that makes room for."""
    idle = [tag for tag in idle_backends(desired, observed, now, time) if tag not in busy]
    idle = [tag for tag in idle if standing.of(desired.backends[tag]) <= standing.of(spec)]
    groups = [[r.allocation for r in observed.of(tag) if _stays(r)] for tag in idle]
    for group in groups:
        _free(ledger, group)
    most = _places(spec.resources, ledger, missing)
    for group in groups:
        _take(ledger, group)
    if _fits(spec.resources, ledger, most):
        return []  # also where nothing helps
    return [idle[index] for index in _enough(groups, lambda: _fits(spec.resources, ledger, most), ledger) or ()]


def idle_backends(desired: Desired, observed: Observed, now: float, time: str) -> list[str]:
    """The backends that may be unloaded for others, the least recently used first."""
    idle = [tag for tag in desired.backends if idle_s(tag, observed, now) >= SPARE_S and is_spare(tag, desired, time)]
    return sorted(idle, key=lambda tag: -idle_s(tag, observed, now))


def lacking(desired: Desired, observed: Observed) -> list[tuple[Resources, int]]:
    """What no node has room for, with what replicas that leave will free: resources of a replica, and how many."""
    found: list[tuple[Resources, int]] = []
    ledger: CapacityLedger | None = None
    for tag in sorted(observed.short & desired.backends.keys()):
        spec = desired.backends[tag]
        mine = [r for r in observed.of(tag) if _stays(r) and r.version == spec.version]
        missing = desired.wanted(tag) - len(mine)
        if missing <= 0 or spec.resources.placement.group:  # more nodes do not make a group larger
            continue
        if ledger is None:
            stays = [replica.allocation for replica in observed.replicas.values() if _stays(replica)]
            ledger = CapacityLedger(observed.capacity, stays)
        for placed in range(missing):
            if ledger.place(spec.resources) is None:
                found.append((spec.resources, missing - placed))
                break
    return found


def with_idle(free: FreeCapacity, desired: Desired, observed: Observed, now: float, time: str) -> FreeCapacity:
    """What is free, with the backends that may be unloaded for a change."""
    return msgspec.structs.replace(free, idle=frozenset(idle_backends(desired, observed, now, time)))


def held_against(
    specs: Collection[BackendSpec], state: Desired, free: FreeCapacity
) -> dict[str, tuple[Allocation, ...]]:
    """What replicas hold, by backend, that new or changed backends cannot have: all but that of idle ones and, where
    these have lower priority, what they have above what they have been promised."""
    standing, own = Standing(state), {spec.tag for spec in specs}
    least = min(map(standing.of, specs), default=(True, 0))
    held: dict[str, tuple[Allocation, ...]] = {}
    for tag, allocations in free.held.items():
        other = state.backends.get(tag)
        if other is not None and tag not in own:
            if tag in free.idle and standing.of(other) <= least:
                continue
            if standing.of(other) < least:
                allocations = allocations[: promised(tag, state)]
        held[tag] = allocations
    return held
