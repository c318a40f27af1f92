"""What a target of latency asks for: reckoned by queueing, corrected by what is measured. Pure."""

from __future__ import annotations

from pointsman.model.scaling import LATENCY, Autoscaling
from pointsman.policy.scaling import queueing
from pointsman.policy.scaling.facts import Facts
from pointsman.policy.scaling.needs import Need
from pointsman.policy.scaling.seen import Seen

SMOOTH = 0.03
"""How much a look changes what was learned of the latency: half of it in about 12 s."""
FACTORS = (0.5, 4.0)
"""Calls take no less and no more than these times what is reckoned; beyond that, replicas are not what is missing."""


def of_latency(seen: Seen, config: Autoscaling, facts: Facts, factor: float) -> tuple[Need | None, str]:
    """What a target of latency asks for, and a remark if it cannot be met.

    Args:
        factor: by how much longer calls take than reckoned.
    """
    if config.target_latency_ms is None or facts.guessed or not facts.sure:
        return None, ""
    target_ms = f"target_latency_ms {config.target_latency_ms:g}"
    limit_s = config.target_latency_ms / 1000
    mean_s, cv2 = queueing.rounded(facts.service.mean_s), round(min(4.0, facts.service.cv2), 1)
    itself_s = queueing.work_itself(mean_s, cv2)
    if itself_s >= limit_s:
        return None, f"{target_ms} is below the work itself, {1000 * itself_s:.3g} ms"
    remark = ""
    if limit_s / factor < 1.05 * itself_s:
        remark = f"{target_ms} is missed by more than waiting explains, calls take {factor:.2g} times what is reckoned"
    limit_s = max(limit_s / factor, min(limit_s, 1.05 * itself_s))
    rate = max(facts.window.rate, facts.rate if facts.rising else 0.0)
    load = queueing.rounded(rate * facts.service.mean_s)
    enough = queueing.least_replicas(load, mean_s, cv2, seen.slots, queueing.rounded(limit_s), seen.max_replicas + 1)
    text = f"99 of 100 of {rate:.3g} calls/s within {config.target_latency_ms:g} ms"
    return Need(enough if enough > seen.wanted else 0, enough, LATENCY, text), remark


def corrected(seen: Seen, config: Autoscaling, facts: Facts, factor: float) -> float:
    """By how much longer calls take than reckoned, with this look. It is learned only while the wanted replicas are
    there and no backlog is worked off.

    Args:
        factor: as of the last look.
    """
    if config.target_latency_ms is None or seen.p99_s is None or facts.guessed or not facts.sure:
        return factor
    if facts.unsettled or facts.state.behind_since is not None:
        return factor
    mean_s, cv2 = queueing.rounded(facts.service.mean_s), round(min(4.0, facts.service.cv2), 1)
    load = queueing.rounded(facts.window.rate * facts.service.mean_s)
    reckoned_s = queueing.percentile(max(1, seen.ready) * seen.slots, load, mean_s, cv2, 100 * mean_s)
    ratio = min(max(seen.p99_s / reckoned_s, FACTORS[0]), FACTORS[1])
    return factor + SMOOTH * (ratio - factor)
