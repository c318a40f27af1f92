"""What was counted in windows of time, of the evidence that there is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from pointsman.controller.state import Desired
from pointsman.model.evidence import ROUTED, Evidence, Numbers, Tally, TallyKey, Window


def numbers_of(
    desired: Desired,
    newest: Evidence,
    earlier: Callable[[float], Evidence],
    over_s: Sequence[float | None],
    *,
    endpoint: str | None,
    both: Sequence[str] = (),
    time: datetime,
) -> Numbers:
    """What was counted in each window.

    Args:
        newest: what was counted up to now.
        earlier: the reading that was the newest so many seconds before, or the oldest there is.
        over_s: the length of each window in seconds; None for all that is known.
        endpoint: only what is of this one; None for all.
        both: backends; only versions of the policy count under which each of them has answered, if there are any.
        time: of day, now.

    Raises:
        ValueError: the endpoint does not exist.
    """
    if endpoint is not None and endpoint not in desired.endpoints:
        raise ValueError(f"endpoint {endpoint!r} does not exist; there are {sorted(desired.endpoints)}")
    now = _shared(_of(newest, endpoint), both)
    policies = {
        key: tally
        for key, tally in now.items()
        if key.endpoint in desired.endpoints and key.policy_version == desired.endpoints[key.endpoint].policy.version
    }
    windows = tuple(_window(now, newest.at, earlier(seconds) if seconds is not None else None) for seconds in over_s)
    return Numbers(windows, policies, {name: _age(desired, name, time) for name in {key.endpoint for key in policies}})


def fresh_numbers(then: Evidence, newest: Evidence) -> Numbers:
    """What was counted between two readings."""
    return Numbers((_window(newest.tallies, newest.at, then),), {}, {}, newest.at)


def _of(evidence: Evidence, endpoint: str | None) -> Mapping[TallyKey, Tally]:
    if endpoint is None:
        return evidence.tallies
    return {key: tally for key, tally in evidence.tallies.items() if key.endpoint == endpoint}


def _shared(tallies: Mapping[TallyKey, Tally], both: Sequence[str]) -> Mapping[TallyKey, Tally]:
    answered = [
        {
            key.policy_version
            for key, tally in tallies.items()
            if (key.backend, key.kind) == (tag, ROUTED) and tally.requests
        }
        for tag in both
    ]
    versions = set.intersection(*answered) if answered else set()
    return {key: tally for key, tally in tallies.items() if key.policy_version in versions} if versions else tallies


def _window(now: Mapping[TallyKey, Tally], at: float, then: Evidence | None) -> Window:
    tallies: dict[TallyKey, Tally] = {}
    for key, tally in now.items():
        before = then.tallies.get(key) if then is not None else None
        more = tally if before is None else tally.since(before)
        if more.requests or more.latencies:
            whole = key._replace(policy_version=0)
            tallies[whole] = tallies[whole].plus(more) if whole in tallies else more
    return Window(at - then.at if then is not None else None, tallies)


def _age(desired: Desired, endpoint: str, time: datetime) -> float:
    """Since when, in seconds, the policy of an endpoint is in force."""
    changes = desired.histories[endpoint].changes if endpoint in desired.histories else ()
    return max(0.0, (time - datetime.fromisoformat(changes[-1].time)).total_seconds()) if changes else 0.0
