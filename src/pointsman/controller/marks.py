"""Who has set which field of which object last, for configuration files (CF10). Pure.

Every change marks the fields in which the state differs afterwards, whatever command made it. Of a new object those
count that are not as they are by default: the others nobody has set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pointsman.controller.state import Desired
from pointsman.model import BackendConfigSpec, Origin, Resources, Source, TargetTraits
from pointsman.wire.apply import (
    Mark,
    Marks,
    WantedBackend,
    WantedEndpoint,
    backend_fields,
    declared_endpoint,
    endpoint_fields,
)
from pointsman.wire.tables import changed, with_changes

BACKEND, ENDPOINT = "backend/", "endpoint/"
_NO_BACKEND = backend_fields(
    WantedBackend("", Origin("", ()), TargetTraits(False), BackendConfigSpec(), Resources(), Source(args=b"[]"))
)
_NO_ENDPOINT = endpoint_fields(WantedEndpoint(None, (), {}))


def fields_of(state: Desired, name: str) -> dict[str, Any] | None:
    """The fields of an object such as ``backend/ranker``, as a file names them; None if there is no such object."""
    kind, _, rest = name.partition("/")
    if kind == "backend":
        spec = state.backends.get(rest)
        return backend_fields(spec) if spec is not None else None
    endpoint = state.endpoints.get(rest)
    return endpoint_fields(declared_endpoint(endpoint, state.pins.get(rest))) if endpoint is not None else None


def marked(old: Desired, new: Desired, *, by: str, now: str, owner: str = "") -> Desired:
    """The new state with marks on all fields in which it differs from the old one.

    Args:
        by: who has sent the command.
        now: ISO 8601 in UTC.
        owner: ``name`` of the file that made the change; empty if a call or command did.
    """
    if new is old:
        return new
    mark = Mark(owner, by, now, new.version)
    marks: dict[str, Marks | None] = {}
    for name in changed_objects(old, new):
        after = fields_of(new, name)
        if after is None:
            marks[name] = None
            continue
        before = fields_of(old, name)
        there = new.marks.get(name, Marks()) if before is not None else Marks(owner)
        different = _differences(before or (_NO_BACKEND if name.startswith(BACKEND) else _NO_ENDPOINT), after)
        if different or before is None:
            fields = {**there.fields, **dict.fromkeys(different, mark)}
            marks[name] = msgspec.structs.replace(there, fields=fields)
    return with_marks(new, marks)


def claimed(state: Desired, claims: Mapping[str, Iterable[str]], *, owner: str, by: str, now: str) -> Desired:
    """The state in which a file owns the fields that it sets, of the objects that it names, and no others of these. The
    same object if that is so already."""
    mark = Mark(owner, by, now, state.version)
    marks: dict[str, Marks | None] = {}
    for name, fields in claims.items():
        there, claim = state.marks.get(name, Marks()), set(fields)
        kept = {field: m for field, m in there.fields.items() if m.owner != owner or field in claim}
        new = {field: mark for field in fields if field not in kept or kept[field].owner != owner}
        marks[name] = Marks(owner, {**kept, **new})
    return with_marks(state, {name: one for name, one in marks.items() if one != state.marks.get(name)})


def with_marks(state: Desired, marks: Mapping[str, Marks | None]) -> Desired:
    """The state with other marks of some objects; None for those that are gone."""
    if all(state.marks.get(name) == one for name, one in marks.items()):
        return state
    return msgspec.structs.replace(state, marks=with_changes(state.marks, marks))


def changed_objects(old: Desired, new: Desired) -> list[str]:
    """The objects that are not the same in both states."""
    endpoints = {**changed(old.endpoints, new.endpoints), **changed(old.pins, new.pins)}
    return [BACKEND + tag for tag in changed(old.backends, new.backends)] + [ENDPOINT + name for name in endpoints]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [field for field, value in new.items() if old[field] != value]
