"""Compares a file with what runs, and plans what makes the two alike. Pure.

Fields are owned as in Kubernetes' server-side apply (CF10): a field of the file that another has set since is a
conflict; one that has gone from the file gets its default if it is still the owner's; all others stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from pointsman.configfile.fields import (
    BACKEND_DEFAULTS,
    BY_VALUE,
    NO_JSON,
    Fields,
    as_json,
    backend_fields,
    changed_config,
    endpoint_defaults,
    endpoint_fields,
)
from pointsman.model import ALL_METHODS, PLAIN, BackendConfigSpec, BackendSpec, CustomPolicy, EndpointSpec
from pointsman.wire.apply import REPLACING, Declared, Marks, Plan, WantedBackend, WantedEndpoint

#: What stands for the object's owner in a conflict about its name.
OWNER = "owner"


class Rules(NamedTuple):
    """What is done about fields that others have set, and whether objects of others are taken over."""

    on_conflict: Literal["refuse", "overwrite", "keep"] = "refuse"
    adopt: bool = False


class Wanted(NamedTuple):
    """A file, as it is compared.

    Attributes:
        owner: its ``name``.
        backends: the fields that it sets, by tag.
        endpoints: the same, by name.
        initial_traffic: of endpoints that have it, by name.
        policy_folders: where custom policies are imported from.
    """

    owner: str
    backends: dict[str, Fields]
    endpoints: dict[str, Fields]
    initial_traffic: dict[str, dict[str, float]] = {}
    policy_folders: tuple[str, ...] = ()


class FieldChange(NamedTuple):
    """One field of an object that is to change; the values are those for people, without secrets."""

    field: str
    old: Any
    new: Any


class Change(NamedTuple):
    """What is done about an object such as ``backend/ranker``."""

    action: Literal["create", "update", "replace", "delete"]
    object: str
    fields: tuple[FieldChange, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The change as commands print it with ``--json``."""
        fields = [{"field": one.field, "from": one.old, "to": one.new} for one in self.fields]
        return {"action": self.action, "object": self.object, "fields": fields}


class Conflict(NamedTuple):
    """A field of the file that another has set since, or an object that is not the file's."""

    object: str
    field: str
    file: Any
    live: Any
    by: str
    time: str

    def as_json(self) -> dict[str, Any]:
        """The conflict as commands print it with ``--json``."""
        return self._asdict()

    def __str__(self) -> str:
        when = f" ({self.by}, {self.time})" if self.by else ""
        if self.field == OWNER:
            whose = f"belongs to the file {self.live!r}" if self.live else "was made by no file"
            return f"{self.object} {whose}{when}"
        file, live = (json.dumps(value, ensure_ascii=False) for value in (self.file, self.live))
        return f"{self.object} {self.field}: the file has {file}, and {live} is in force{when}"


class Merged(NamedTuple):
    """An object of a file, together with what there is.

    Attributes:
        name: such as ``backend/ranker``.
        values: all of its fields, as they are to be.
        changed: those that differ from what there is.
        claims: those that are the file's afterwards.
        conflicts: empty if the object can be changed.
        live: its fields as they are; None if there is no such object.
    """

    name: str
    values: Fields
    changed: tuple[str, ...]
    claims: tuple[str, ...]
    conflicts: tuple[Conflict, ...]
    live: Fields | None


class Packed(NamedTuple):
    """A backend's code, ready to be sent, and all of it but ``config``."""

    wanted: WantedBackend
    blob: bytes


class Outcome(NamedTuple):
    """What a file changes.

    Attributes:
        version: of the state that it was compared with.
        changes: in the order of the file; what is deleted comes last.
        conflicts: if there are any, the plan must not be carried out.
        unchanged: objects of the file that are as it wants them.
        plan: for the controller.
        codes: the code that the plan needs, by digest.
        is_noted: whether the controller knows already that all of this is the file's.
    """

    version: int
    changes: tuple[Change, ...]
    conflicts: tuple[Conflict, ...]
    unchanged: tuple[str, ...]
    plan: Plan
    codes: dict[str, bytes]
    is_noted: bool

    def by_action(self) -> dict[str, list[str]]:
        """The objects by what is done about them."""
        found: dict[str, list[str]] = {"create": [], "update": [], "replace": [], "delete": []}
        for change in self.changes:
            found[change.action].append(change.object)
        return {**found, "unchanged": list(self.unchanged)}

    def as_json(self) -> dict[str, Any]:
        """The outcome as commands print it with ``--json``."""
        return {
            "version": self.version,
            "changes": [change.as_json() for change in self.changes],
            "conflicts": [conflict.as_json() for conflict in self.conflicts],
        }


# --- one object -----------------------------------------------------------------------------------------------


def merge(
    name: str, given: Fields, live: Fields | None, marks: Marks, defaults: Fields, *, owner: str, rules: Rules
) -> Merged:
    """Put the fields that a file sets together with those that there are.

    Args:
        name: of the object.
        given: what the file sets.
        live: what there is; None for nothing.
        marks: who has set that.
        defaults: of fields that the file leaves out.
    """
    if live is None:
        values = {**defaults, **given}
        return Merged(name, values, tuple(given), tuple(given), (), None)
    differing = [field for field, value in given.items() if live.get(field) != value]
    if marks.owner != owner and not rules.adopt and (marks.owner or differing):
        return Merged(name, live, (), (), (_ownership(name, owner, marks),), live)
    is_ours = marks.owner == owner
    conflicts, kept = [], set()
    for field in differing:
        mark = marks.fields.get(field)
        is_theirs = mark.owner != owner if mark is not None else not is_ours
        if not is_theirs or rules.on_conflict == "overwrite":
            continue
        if rules.on_conflict == "keep":
            kept.add(field)
        elif is_ours and mark is not None:
            shown = as_json(field, given[field]), as_json(field, live[field])
            conflicts.append(Conflict(name, field, *shown, mark.by, mark.time))
    claims = tuple(field for field in given if field not in kept)
    left = [f for f, mark in marks.fields.items() if mark.owner == owner and f not in given and f in defaults]
    values = {**live, **{f: defaults[f] for f in left}, **{f: given[f] for f in claims}}
    changed = tuple(field for field, value in values.items() if live.get(field) != value)
    return Merged(name, values, changed, claims, tuple(conflicts), live)


def _ownership(name: str, owner: str, marks: Marks) -> Conflict:
    newest = max(marks.fields.values(), key=lambda mark: mark.version, default=None)
    by, time = (newest.by, newest.time) if newest is not None else ("", "")
    return Conflict(name, OWNER, owner, marks.owner or None, by, time)


# --- a file ---------------------------------------------------------------------------------------------------


def to_pack(wanted: Wanted, declared: Declared, rules: Rules) -> dict[str, Fields]:
    """The backends of a file whose code must be loaded to see whether it has changed, each with all of its fields.

    Code that was sent by value and stays cannot be loaded here, and needs not.
    """
    found = {}
    for tag, given in wanted.backends.items():
        merged = _merged_backend(tag, given, wanted, declared, rules)
        is_kept = merged.values["code"] == BY_VALUE or merged.values["args"] == NO_JSON
        if not is_kept and not any(one.field == OWNER for one in merged.conflicts):
            found[tag] = merged.values
    return found


def plan(wanted: Wanted, declared: Declared, rules: Rules, packed: Mapping[str, Packed]) -> Outcome:
    """What a file changes.

    Args:
        packed: the backends that :func:`to_pack` has named.
    """
    merged: list[Merged] = []
    backends: dict[str, WantedBackend] = {}
    changes: list[Change] = []
    for tag, given in wanted.backends.items():
        if tag in packed:
            given = {**given, "content": packed[tag].wanted.source.content}
        one = _merged_backend(tag, given, wanted, declared, rules)
        merged.append(one)
        if change := _backend_change(one):
            changes.append(change)
            is_new_code = change.action in ("create", "replace")
            code = packed.get(tag) if is_new_code else None
            backends[tag] = _wanted_backend(one, declared.backends.get(tag), code, wanted.policy_folders)
    endpoints: dict[str, WantedEndpoint] = {}
    for name, given in wanted.endpoints.items():
        one = _merged_endpoint(name, given, wanted, declared, rules, packed)
        merged.append(one)
        if one.live is None or one.changed:
            changes.append(Change("update" if one.live is not None else "create", one.name, _field_changes(one)))
            endpoints[name] = _wanted_endpoint(one, declared.endpoints.get(name), wanted.policy_folders)
    gone = _gone(wanted, declared)
    changes += [Change("delete", name) for name in gone]
    claims = {one.name: one.claims for one in merged if not one.conflicts}
    touched = {change.object for change in changes}
    return Outcome(
        version=declared.version,
        changes=tuple(changes),
        conflicts=tuple(conflict for one in merged for conflict in one.conflicts),
        unchanged=tuple(one.name for one in merged if one.name not in touched and not one.conflicts),
        plan=Plan(
            backends=backends,
            endpoints=endpoints,
            delete_backends=tuple(_names(gone, "backend/")),
            delete_endpoints=tuple(_names(gone, "endpoint/")),
            claims=claims,
        ),
        codes={one.wanted.code: one.blob for tag, one in packed.items() if _is_sent(backends.get(tag), one)},
        is_noted=all(_is_noted(name, claimed, wanted.owner, declared) for name, claimed in claims.items()),
    )


def _merged_backend(tag: str, given: Fields, wanted: Wanted, declared: Declared, rules: Rules) -> Merged:
    name, spec = f"backend/{tag}", declared.backends.get(tag)
    live = backend_fields(spec) if spec is not None else None
    marks = declared.marks.get(name, Marks())
    return merge(name, given, live, marks, BACKEND_DEFAULTS, owner=wanted.owner, rules=rules)


def _merged_endpoint(
    endpoint: str, given: Fields, wanted: Wanted, declared: Declared, rules: Rules, packed: Mapping[str, Packed]
) -> Merged:
    name, spec = f"endpoint/{endpoint}", declared.endpoints.get(endpoint)
    live = endpoint_fields(spec, declared.pins.get(endpoint)) if spec is not None else None
    initial = wanted.initial_traffic.get(endpoint)
    tags = given.get("traffic") or initial or {}
    defaults = endpoint_defaults(_surface(tags, declared, packed))
    if live is None and initial is not None:
        defaults["traffic"] = initial
    marks = declared.marks.get(name, Marks())
    return merge(name, given, live, marks, defaults, owner=wanted.owner, rules=rules)


def _surface(tags: Iterable[str], declared: Declared, packed: Mapping[str, Packed]) -> str:
    for tag in tags:
        if tag in packed:
            return packed[tag].wanted.traits.surface
        if tag in declared.backends:
            return declared.backends[tag].traits.surface
    return PLAIN


def _backend_change(merged: Merged) -> Change | None:
    if merged.live is None:
        return Change("create", merged.name, _field_changes(merged))
    if not merged.changed:
        return None
    action: Literal["replace", "update"] = "replace" if set(merged.changed) & set(REPLACING) else "update"
    return Change(action, merged.name, _field_changes(merged))


def _field_changes(merged: Merged) -> tuple[FieldChange, ...]:
    live = merged.live
    # The digest of new code says nothing to people, unless it is all that is new.
    fields = [field for field in merged.changed if field != "content" or (live is not None and live["code"])]
    return tuple(
        FieldChange(field, as_json(field, live.get(field)) if live is not None else None, as_json(field, new))
        for field in fields
        for new in (merged.values[field],)
    )


def _wanted_backend(
    merged: Merged, live: BackendSpec | None, packed: Packed | None, folders: tuple[str, ...]
) -> WantedBackend:
    config = live.config if live is not None else BackendConfigSpec()
    config = changed_config(config, {f: merged.values[f] for f in merged.changed if f.startswith("config.")}, folders)
    if packed is not None:
        new = packed.wanted
        return WantedBackend(new.code, new.origin, new.traits, config, new.resources, new.source)
    assert live is not None
    return WantedBackend(live.code, live.origin, live.traits, config, live.resources, live.source)


def _wanted_endpoint(merged: Merged, live: EndpointSpec | None, folders: tuple[str, ...]) -> WantedEndpoint:
    values = dict(merged.values)
    path = values.pop("custom")
    custom = live.policy.custom if live is not None else None
    if path is None or custom is None or custom.path != path:
        custom = CustomPolicy(path, folders) if path is not None else None
    methods = values.pop("methods")
    if methods == (ALL_METHODS,):
        methods = ()  # what an app has without being told
    elif live is not None and sorted(methods) == sorted(live.methods):
        methods = live.methods
    return WantedEndpoint(weights=values.pop("traffic"), custom=custom, methods=methods, **values)


def _gone(wanted: Wanted, declared: Declared) -> list[str]:
    """The owner's objects that are not in the file any more; endpoints first, since they use backends."""
    there = {f"endpoint/{name}": name in wanted.endpoints for name in declared.endpoints}
    there.update({f"backend/{tag}": tag in wanted.backends for tag in declared.backends})
    return [name for name, is_wanted in there.items() if not is_wanted and declared.owner_of(name) == wanted.owner]


def _names(objects: Iterable[str], kind: str) -> list[str]:
    return [name.removeprefix(kind) for name in objects if name.startswith(kind)]


def _is_sent(wanted: WantedBackend | None, packed: Packed) -> bool:
    return wanted is not None and wanted.code == packed.wanted.code


def _is_noted(name: str, claimed: tuple[str, ...], owner: str, declared: Declared) -> bool:
    """Whether the marks of an object say already that exactly these of its fields are the owner's."""
    marks = declared.marks.get(name, Marks())
    ours = {field for field, mark in marks.fields.items() if mark.owner == owner}
    return marks.owner == owner and ours == set(claimed)
