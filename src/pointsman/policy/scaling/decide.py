"""The rule: how many replicas a backend needs, and why. Used by the controller at each look, and by the simulator.

What is counted (``looks``) is read (``facts``), and becomes a need for each subject: lasting demand, latency, blocked
event loops, a backlog, the season, or a user's policy (``needs``). The largest wins. A rise acts at once, or after the
upscale delay; a fall when all that lasted was lower for the whole downscale delay (``falls``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from pointsman.model.origin import Struct
from pointsman.model.scaling import BOUNDS, IDLE, SEASON, TRAFFIC, Autoscaling
from pointsman.policy.scaling import facts, falls, latency, looks, needs, seasons
from pointsman.policy.scaling.facts import Facts, State
from pointsman.policy.scaling.falls import Falls
from pointsman.policy.scaling.looks import Looks, Service
from pointsman.policy.scaling.needs import Need
from pointsman.policy.scaling.seasons import Season
from pointsman.policy.scaling.seen import Seen, Verdict

LOOK_S = 0.5
"""Seconds between two looks."""


class Memory(Struct, frozen=True):
    """What the rule keeps from look to look; a new controller begins with a fresh one.

    Attributes:
        looks: counts of the last seconds.
        falls: what was needed, and what went.
        state: how calls come.
        launches: replicas that were asked for and are not ready: when each lot should be, and how many.
        wishes: the lowest numbers that were asked for, by time, for the upscale delay.
        service: learned times of calls.
        season: what was needed a season ago.
        latency: by how much more calls take than reckoned.
        raised_at, fallen_at: when the number rose and fell last.
    """

    looks: Looks
    falls: Falls
    state: State = State()
    launches: tuple[tuple[float, int], ...] = ()
    wishes: tuple[tuple[float, int], ...] = ()
    service: Service | None = None
    season: Season | None = None
    latency: float = 1.0
    raised_at: float | None = None
    fallen_at: float | None = None


def decide(seen: Seen, config: Autoscaling, now: float, memory: Memory | None = None) -> Verdict:
    """Decide how many replicas a backend needs.

    Args:
        now: seconds on any clock that does not jump.
        memory: of the last verdict; None at the first look, or after a restart of whoever looks.
    """
    if memory is None:
        memory = Memory(looks.begin(now, seen.demand), falls.begin(now, seen.wanted))
        counted = memory.looks
    else:
        counted = looks.add(memory.looks, now, seen.demand, config.look_back_period_s)
    if seen.is_step:
        counted = looks.scaled(counted, seen.share, seen.gains)
    launches = _under_way(memory.launches, seen, now)
    read = facts.gather(seen, config, now, counted, memory.state, memory.service)
    asked, remark = _asked(seen, config, now, read, msgspec.structs.replace(memory, looks=counted), launches)
    lasting = max((need.enough for need in asked if need.lasts), default=0)
    if 0 < lasting < seen.wanted and seen.policy_wants is None:
        load = falls.usual(memory.falls, min(read.running, read.demand))
        lasting = needs.with_queue(lasting, seen.wanted, seen, read, load)
    kept = falls.noted(falls.shared(memory.falls, seen.share), config, now, lasting, read.demand)
    season = memory.season
    if config.season_s is not None:
        needed = max((need.enough for need in asked if need.reason != SEASON), default=0)
        season = seasons.noted(season, config.season_s, now, needed)
    memory = msgspec.structs.replace(
        memory,
        looks=counted,
        falls=kept,
        state=read.state,
        launches=launches,
        service=None if read.guessed else read.service,
        latency=latency.corrected(seen, config, read, memory.latency),
        season=season,
    )
    return _verdict(seen, config, now, read, asked, memory, remark)


def _asked(
    seen: Seen,
    config: Autoscaling,
    now: float,
    read: Facts,
    memory: Memory,
    launches: tuple[tuple[float, int], ...],
) -> tuple[list[Need], str]:
    """What each subject asks for, and what a user should know."""
    waking, policy = needs.of_waking(seen), needs.of_policy(seen)
    if policy is not None:
        return [need for need in (policy, waking) if need is not None], ""
    wanted, remark = latency.of_latency(seen, config, read, memory.latency)
    ahead = 0
    if config.season_s is not None:
        ahead = seasons.ahead(memory.season, config.season_s, now, facts.start_of(seen))
    found = (
        needs.of_demand(seen, read),
        needs.of_rise(seen, read),
        needs.of_callers(seen, read, memory.looks),
        wanted,
        needs.of_blocking(seen, config, read, now),
        waking,
        needs.of_backlog(seen, read, launches, now),
        needs.of_season(config, ahead),
    )
    return [need for need in found if need is not None], remark


def _verdict(
    seen: Seen, config: Autoscaling, now: float, read: Facts, asked: Sequence[Need], memory: Memory, remark: str
) -> Verdict:
    """The number that follows from what is asked for, with delays, factors and bounds."""
    before = seen.wanted
    most = max(asked, key=lambda need: need.now)
    desired, reason, text = before, asked[0].reason, asked[0].text
    if seen.is_step:
        desired, reason = _step(seen, config, now, read, asked, memory.falls), TRAFFIC
        text = f"{_step_text(seen)}: {most.text}"
    elif most.now > before:
        desired, reason, text = most.now, most.reason, most.text
    elif not seen.silent:
        desired, reason, text = _lower(seen, config, now, read, asked, memory)
    wishes, desired = _delayed(memory.wishes, config, now, before, desired)
    desired = _by_factor(config, before, desired)
    wanted = min(max(desired, seen.min_replicas), seen.max_replicas)
    if not seen.min_replicas <= before <= seen.max_replicas and wanted in (seen.min_replicas, seen.max_replicas):
        reason = BOUNDS
        text = f"at {'least' if before < seen.min_replicas else 'most'} {wanted}"
    lasting = max((need.enough for need in asked if need.lasts), default=0)
    memory = _remembered(seen, config, now, memory, wanted, lasting, reason)
    memory = msgspec.structs.replace(memory, wishes=wishes)
    return Verdict(wanted, desired, reason, text, memory, read.window.demand, read.window.rate, remark)


def _step(seen: Seen, config: Autoscaling, now: float, read: Facts, asked: Sequence[Need], kept: Falls) -> int:
    """The number for a new share of the traffic, which is not waited for: what goes is known not to be needed, but for
    the same share of what was needed in the downscale delay."""
    number = max(need.enough if need.lasts else need.now for need in asked)
    if 0 < number < seen.wanted:
        number = needs.with_queue(number, seen.wanted, seen, read, read.running)
    if seen.silent or seen.share >= 1:
        return max(number, seen.wanted)
    return max(number, min(seen.wanted, falls.highest(kept, now, falls.delay_of(kept, config))))


def _step_text(seen: Seen) -> str:
    if seen.gains:
        return f"a traffic policy brings {seen.gains:.3g} calls at a time"
    return f"a traffic policy multiplies the calls by {seen.share:.3g}"


def _lower(
    seen: Seen, config: Autoscaling, now: float, read: Facts, asked: Sequence[Need], memory: Memory
) -> tuple[int, str, str]:
    """To how many replicas the number may fall, and why; the number that is wanted if it may not."""
    before, kept = seen.wanted, memory.falls
    low = max(falls.floor(kept, config, now, before, read.demand, clear=read.clear), *(need.now for need in asked))
    highest = max(asked, key=lambda need: need.enough)
    if low >= before:
        return before, highest.reason, highest.text
    if low == 0:
        return 0, IDLE, f"no call for {now - kept.used_at:.0f} s"
    if kept.surged:
        return low, highest.reason, f"the backlog is gone, {highest.text}"
    return (
        low,
        highest.reason,
        f"{low} {'was' if low == 1 else 'were'} enough for {falls.delay_of(kept, config):g} s, now {highest.text}",
    )


def _delayed(
    wishes: tuple[tuple[float, int], ...], config: Autoscaling, now: float, before: int, desired: int
) -> tuple[tuple[tuple[float, int], ...], int]:
    """The number after the upscale delay: the lowest that was asked for in it. Nobody waits for the first replica."""
    if config.upscale_delay_s <= 0:
        return (), desired
    if not wishes:
        wishes = ((now, before),)
    while wishes and wishes[-1][1] >= desired:
        wishes = wishes[:-1]
    wishes = (*wishes, (now, desired))
    while len(wishes) > 1 and wishes[0][0] < now - config.upscale_delay_s:
        wishes = wishes[1:]
    if desired <= before or before == 0:
        return wishes, desired
    return wishes, max(before, wishes[0][1])


def _by_factor(config: Autoscaling, before: int, desired: int) -> int:
    """The number after the factors, which make steps smaller or rises larger; each step is at least 1."""
    if desired > before and config.upscaling_factor != 1.0:
        return before + max(1, math.ceil(config.upscaling_factor * (desired - before) - 1e-9))
    if desired < before and config.downscaling_factor < 1.0:
        return before - max(1, math.floor(config.downscaling_factor * (before - desired) + 1e-9))
    return desired


def _remembered(
    seen: Seen,
    config: Autoscaling,
    now: float,
    memory: Memory,
    wanted: int,
    lasting: int,
    reason: str,
) -> Memory:
    """What is kept of a change of the number."""
    before, kept = seen.wanted, memory.falls
    if reason == TRAFFIC:
        kept = falls.stepped(kept, now, wanted)
    if wanted > before:
        kept = falls.raised(kept, config, now, wanted, lasting)
        launches = (*memory.launches, (now + facts.start_of(seen), wanted - before))
        return msgspec.structs.replace(memory, falls=kept, launches=launches, raised_at=now)
    if wanted < before:
        if reason not in (TRAFFIC, BOUNDS):
            kept = falls.fallen(kept, now, before, wanted)
        return msgspec.structs.replace(memory, falls=kept, fallen_at=now)
    return memory if kept is memory.falls else msgspec.structs.replace(memory, falls=kept)


def _under_way(launches: tuple[tuple[float, int], ...], seen: Seen, now: float) -> tuple[tuple[float, int], ...]:
    """The replicas that are not ready, newest lots first to be missing; those that died are as good as launched now."""
    missing = seen.wanted - seen.ready
    if missing <= 0:
        return ()
    left: list[tuple[float, int]] = []
    for ready_at, count in reversed(launches):
        if missing <= 0:
            break
        left.append((ready_at, min(count, missing)))
        missing -= min(count, missing)
    left.reverse()
    if missing > 0:
        left.append((now + facts.start_of(seen), missing))
    return tuple(left)
