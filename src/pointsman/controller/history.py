"""The history of an instance: who has changed what, and when. Pure.

The words are made of the difference between two states, so that every command is recorded alike, whatever it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pointsman.controller.state import Desired
from pointsman.model import BackendConfigSpec, BackendSpec, ChangeRecord, Comparison, EndpointSpec, Pins, TrafficHistory
from pointsman.wire.commands import Change
from pointsman.wire.tables import changed

KEPT_CHANGES = 200
#: Who takes a change back.
CONTROLLER = "the controller"
MAX_TEXT = 300
_ITS_OWN_WORDS = ("rollback", "rollout")


def recorded(old: Desired, new: Desired, *, by: str, now: str, owner: str = "", because: str = "") -> Desired:
    """The new state, with one record for each backend and endpoint in which it differs from the old one.

    Args:
        by: who asked for it, by their own account.
        now: time of day, ISO 8601 in UTC.
        owner: ``name`` of the configuration file that was applied; empty if none was.
        because: the first words of each record, such as ``taken back``.
    """
    words = {**_backends(old, new), **_endpoints(old, new)}
    if not words:
        return new
    first = f"{because}: " if because else ""
    records = {
        f"{new.version:016d}.{number:04d}": ChangeRecord(new.version, now, by, owner, name, _cut(first + text))
        for number, (name, text) in enumerate(words.items())
    }
    return msgspec.structs.replace(new, changes=_newest({**new.changes, **records}))


def noted(new: Desired, name: str, text: str, *, by: str, now: str) -> Desired:
    """The state with one more record of its version, for what cannot be seen by a difference of two states."""
    number = max((number + 1 for version, number in map(_place, new.changes) if version == new.version), default=0)
    record = ChangeRecord(new.version, now, by, "", name, _cut(text))
    return msgspec.structs.replace(new, changes=_newest({**new.changes, f"{new.version:016d}.{number:04d}": record}))


def history_of(desired: Desired) -> tuple[ChangeRecord, ...]:
    """The newest changes, oldest first."""
    return tuple(desired.changes[key] for key in sorted(desired.changes, key=_place))


def subject_of(command: Change) -> str:
    """What a command changes, and who sent it, for the log."""
    names = ("tag", "name", "endpoint", "owner", "operation")
    places = (command, getattr(command, "plan", None))
    subject = next((getattr(place, name) for place in places for name in names if hasattr(place, name)), "")
    by = getattr(command, "by", "")
    return f"{subject!r}" + (f" by {by if by.isprintable() else repr(by)}" if by else "")


def differences(old: BackendSpec, new: BackendSpec) -> list[str]:
    """The names of what differs between two versions of a backend, but for its config."""
    names = {
        "code": (old.source.path, old.source.name) != (new.source.path, new.source.name),
        "args": old.source.args != new.source.args,
        "env": old.source.env != new.source.env,
        "ray_actor_options": old.resources != new.resources,
        "version": old.source.version != new.source.version,
        "content": old.source.content != new.source.content,
    }
    if old.code != new.code and not names["args"]:
        names["code"] = True
    different = [name for name, differs in names.items() if differs]
    return different or ["import path"]


def _backends(old: Desired, new: Desired) -> dict[str, str]:
    words = {}
    for tag, spec in changed(old.backends, new.backends).items():
        before = old.backends.get(tag)
        if spec is None or before is None:
            words[f"backend/{tag}"] = "deleted" if spec is None else "created"
            continue
        parts = _config(before.config, spec.config)
        if spec.version != before.version:
            parts = [f"replaced ({', '.join(differences(before, spec))})", *parts]
        if parts:  # a config that was taken back before it was in force has another version only
            words[f"backend/{tag}"] = ", ".join(parts)
    return words


def _config(old: BackendConfigSpec, new: BackendConfigSpec) -> list[str]:
    before, after = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
    before |= {"user_config": None}
    after |= {"user_config": None}
    parts = [_fields(before, after)] if before != after else []
    return [*parts, *(["user_config"] if old.user_config != new.user_config else [])]


def _endpoints(old: Desired, new: Desired) -> dict[str, str]:
    words = {}
    pins = changed(old.pins, new.pins)
    for name in {**changed(old.endpoints, new.endpoints), **pins}:
        before, after = old.endpoints.get(name), new.endpoints.get(name)
        if before is None or after is None:
            words[f"endpoint/{name}"] = "deleted" if after is None else "created"
            continue
        parts = _endpoint(before, after, new.histories.get(name, TrafficHistory()))
        if name in pins:
            parts += _pins(old.pins.get(name, Pins()).keys, new.pins.get(name, Pins()).keys)
        if parts:
            words[f"endpoint/{name}"] = ", ".join(parts)
    return words


def _endpoint(old: EndpointSpec, new: EndpointSpec, history: TrafficHistory) -> list[str]:
    before, after = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
    del before["policy"], after["policy"]
    parts = [_fields(before, after)] if before != after else []
    if old.policy.version != new.policy.version:
        word = history.changes[-1].change if history.changes else ""
        first = f"{word}: " if word.startswith(_ITS_OWN_WORDS) else ""
        parts.append(f"{first}traffic {_shares(new.policy.weights)}")
        if old.policy.custom != new.policy.custom:
            parts.append(f"by {new.policy.custom.path}" if new.policy.custom else "by weight")
        if old.policy.shadows != new.policy.shadows:
            parts.append(f"shadows {_shares(new.policy.shadows) or 'none'}")
        if old.policy.compared != new.policy.compared:
            ways = [f"{tag} by {way_of(how)}" for tag, how in new.policy.compared.items()]
            parts.append(f"compares {', '.join(ways) or 'none'}")
    return parts


def way_of(comparison: Comparison) -> str:
    """The name of a comparer, such as ``json``."""
    name = comparison.by.__struct_config__.tag
    return str(name)


def _pins(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    pinned, unpinned = sum(old.get(key) != tag for key, tag in new.items()), len(old.keys() - new.keys())
    counts = ((pinned, "pinned"), (unpinned, "unpinned"))
    return [f"{count} key{'s' * (count > 1)} {word}" for count, word in counts if count]


def _fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {before[name]} -> {after[name]}" for name in after if before[name] != after[name])


def _shares(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{tag} {100 * weight:.4g} %" for tag, weight in weights.items())


def _newest(changes: dict[str, ChangeRecord]) -> dict[str, ChangeRecord]:
    return {key: changes[key] for key in sorted(changes, key=_place)[-KEPT_CHANGES:]}


def _place(key: str) -> tuple[int, int]:
    """Of a record: its version, and its number in that. Changes that make no version may be many in one."""
    version, _, number = key.partition(".")
    return int(version), int(number)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
