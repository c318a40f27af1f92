"""An apply of a configuration file: it begins, and is completed in one commit or taken back whole (CF7, CF8). Pure.

begin      everything is checked, and the backends are changed; what they were is kept in the operation
complete   all of them have come up: endpoints, traffic and deletes follow in one version
take_back  one of them cannot come up: every step is undone

In between the operation is part of the state, so a new controller goes on with it.
"""

from __future__ import annotations

import msgspec

from pointsman.arguments import check_object_name
from pointsman.controller.allocation import CapacityLedger, describe_request
from pointsman.controller.backends import check_config, check_description
from pointsman.controller.finishing import finished
from pointsman.controller.history import CONTROLLER, recorded
from pointsman.controller.marks import ENDPOINT, fields_of
from pointsman.controller.scaling.following import needs, reserved, with_specs
from pointsman.controller.scaling.room import held_against
from pointsman.controller.state import (
    Before,
    Desired,
    Fallback,
    FreeCapacity,
    NoCapacityError,
    Operation,
    find_backend,
    without,
)
from pointsman.exceptions import BusyError, StateChangedError
from pointsman.model import BackendSpec
from pointsman.wire.apply import DONE, RUNNING, TAKEN_BACK, Mark, Marks, OperationView, WantedBackend, is_replaced
from pointsman.wire.commands import Apply, BackendChange, Change, DeleteBackend, TakeBack, backend_of

#: So many operations are kept after their end, for callers that ask how they ended.
KEPT_OPERATIONS = 10


def begin(state: Desired, command: Apply, free: FreeCapacity, now: str) -> Desired:
    """The state in which an apply has begun; or has ended, if no backend has to come up for it.

    Args:
        free: what replicas may use.
        now: ISO 8601 in UTC.

    Raises:
        BusyError: another one runs.
        StateChangedError: the state is not the one that the plan was made for.
        ValueError, InsufficientResourcesError: the plan cannot be carried out. Nothing has changed.
    """
    if state.running is not None:
        raise BusyError(_busy(state.running))
    if command.base != state.version:
        raise StateChangedError(
            f"the plan was made for version {command.base} of the state, which has version {state.version} now; make"
            " it anew"
        )
    begun, operation = _begun(state, command, free, now)
    done = finished(begun, operation, now)  # raises if the rest cannot be done; the commit comes later
    if not operation.backends:
        return _ended(done, operation, DONE)
    return msgspec.structs.replace(begun, operations={**begun.operations, operation.id: operation})


def complete(state: Desired, now: str) -> Desired:
    """The state after the running apply: its backends have come up. If its endpoints were changed meanwhile, or what is
    left of the plan cannot be done any more, it is taken back."""
    operation = state.running
    assert operation is not None
    name, text = _meddling(state, operation)
    if text:
        return take_back(state, name, text, now=now)
    try:
        done = finished(state, operation, now)
    except ValueError as error:
        return take_back(state, "", f"the state was changed meanwhile: {error}", now=now)
    return _ended(done, operation, DONE)


def take_back(state: Desired, name: str, text: str, traceback: str = "", *, now: str) -> Desired:
    """The state without anything that the running apply has done.

    Args:
        name: the object at fault, such as ``backend/ranker``; empty if there is none.
        text: what was wrong.
        traceback: of user code.
        now: ISO 8601 in UTC.
    """
    operation = state.running
    assert operation is not None
    specs: dict[str, BackendSpec | None] = {}
    fallbacks, version = dict(state.fallbacks), state.version + 1
    for tag, before in operation.backends.items():
        fallbacks.pop(tag, None)
        # A new config version, so that replicas that have the new configuration are sent the old one.
        specs[tag] = msgspec.structs.replace(before.spec, config_version=version) if before.spec is not None else None
        if before.fallback is not None:
            fallbacks[tag] = before.fallback
    new = with_specs(msgspec.structs.replace(state, version=version, fallbacks=fallbacks), specs, now=now)
    new = recorded(state, new, by=CONTROLLER, now=now, owner=operation.owner, because="taken back")
    return _ended(new, operation, TAKEN_BACK, name, text, traceback)


def stop(state: Desired, command: TakeBack, now: str) -> tuple[Desired, str]:
    """The state after someone has asked to take an apply back, and a note if it had ended before.

    Raises:
        ValueError: the operation is not known.
    """
    operation = find_operation(state, command.operation)
    if operation.state != RUNNING:
        return state, f"the apply of {operation.owner!r} has ended already: {operation.state}"
    return take_back(state, "", f"{command.by or 'someone'} took it back", now=now), ""


def check_not_busy(state: Desired, command: Change) -> None:
    """Check that no apply is changing the backend of a command.

    Raises:
        BusyError: one is. Changes of endpoints are never refused: in an emergency they cannot wait.
    """
    running = state.running
    if isinstance(command, BackendChange):
        tag = backend_of(command)
    elif isinstance(command, DeleteBackend):
        tag = command.tag
    else:
        return
    if running is not None and tag in running.tags:
        raise BusyError(f"backend {tag!r} cannot be changed now: {_busy(running)}")


def find_operation(state: Desired, operation: str) -> Operation:
    """An apply that runs or has ended not long ago.

    Raises:
        ValueError: there is none of that id.
    """
    found = state.operations.get(operation)
    if found is None:
        raise ValueError(
            f"there is no apply of id {operation!r}: it never began, or {KEPT_OPERATIONS} others have ended since"
        )
    return found


def view_of(operation: Operation, version: int) -> OperationView:
    """What callers are told of an apply; ``version`` is that of the state."""
    return OperationView(
        id=operation.id,
        owner=operation.owner,
        by=operation.by,
        began=operation.began,
        state=operation.state,
        version=version if operation.state == RUNNING else operation.version,
        object=operation.object,
        text=operation.text,
        traceback=operation.traceback,
    )


def _begun(state: Desired, command: Apply, free: FreeCapacity, now: str) -> tuple[Desired, Operation]:
    """The state with changed backends, and the operation that they belong to."""
    plan, version = command.plan, state.version + 1
    specs: dict[str, BackendSpec] = {}
    codes = state.codes() | command.codes.keys()
    for tag, wanted in plan.backends.items():
        check_object_name(tag, "backend")
        old = state.backends.get(tag)
        if tag in plan.delete_backends:
            raise ValueError(f"backend {tag!r} is both changed and deleted by the plan")
        if wanted.code not in codes:
            raise ValueError(f"the code of backend {tag!r} is missing: no blob has the digest {wanted.code[:12]}")
        spec = _spec_of(state, tag, wanted, version, now)
        check_config(tag, wanted.config, spec.traits)
        check_description(spec)
        if spec != old:
            specs[tag] = spec
    for tag in plan.delete_backends:
        find_backend(state, tag)
    begun = with_specs(msgspec.structs.replace(state, version=version), specs, free.default_max, now)
    numbers = {tag: needs(state, begun, tag, len(free.held.get(tag, ()))) for tag in specs}
    _check_capacity(state, specs, numbers, free)
    operation = Operation(
        id=command.id,
        owner=command.owner,
        by=command.by,
        began=now,
        version=version,
        plan=msgspec.structs.replace(plan, backends={}),
        replicas={tag: one.config.num_replicas for tag, one in plan.backends.items() if one.config.autoscaling is None},
        backends={tag: Before(state.backends.get(tag), state.fallbacks.get(tag)) for tag in specs},
        endpoints={name: state.endpoints.get(name) for name in (*plan.endpoints, *plan.delete_endpoints)},
        pins={n: state.pins[n] for n in (*plan.endpoints, *plan.delete_endpoints) if n in state.pins},
        tags=(*plan.backends, *plan.delete_backends),
    )
    if not specs:
        return state, operation
    fallbacks = {
        tag: Fallback(state.backends.get(tag), replicas=numbers[tag] if begun.is_scaled(tag) else None) for tag in specs
    }
    begun = msgspec.structs.replace(begun, fallbacks={**state.fallbacks, **fallbacks})
    return recorded(state, begun, by=command.by, now=now, owner=command.owner), operation


def _spec_of(state: Desired, tag: str, wanted: WantedBackend, version: int, now: str) -> BackendSpec:
    """A backend until the commit: as it is wanted, but with no fewer replicas than it has, since traffic that is to go
    elsewhere still comes. Not if they need other resources: there may be no room for so many of the new ones."""
    old = state.backends.get(tag)
    config, new = wanted.config, old is None or is_replaced(old, wanted)
    if old is not None and old.traits.surface != wanted.traits.surface:
        raise ValueError(
            f"backend {tag!r} is of another kind: both versions are ASGI apps, or none is; give it another name"
        )
    if old is not None and old.resources == wanted.resources and config.autoscaling is None:
        number = max(config.num_replicas, state.wanted(tag))
        config = msgspec.structs.replace(config, num_replicas=number)
    if old is not None and not new:
        return old if config == old.config else msgspec.structs.replace(old, config=config, config_version=version)
    return BackendSpec(
        tag=tag,
        version=version,
        config_version=version,
        code=wanted.code,
        origin=wanted.origin,
        traits=wanted.traits,
        config=config,
        resources=wanted.resources,
        source=wanted.source,
        since=now,
    )


def _check_capacity(state: Desired, specs: dict[str, BackendSpec], numbers: dict[str, int], free: FreeCapacity) -> None:
    """Raise if so many new replicas of all these backends can never be placed side by side. What the old version of a
    backend holds does not count, since its replicas are removed one by one."""
    growing = {tag: spec for tag, spec in specs.items() if _grows(state, spec, numbers[tag])}
    versions = {tag: spec.version for tag, spec in state.backends.items()}
    replaced = {tag for tag, spec in growing.items() if versions.get(tag, spec.version) != spec.version}
    against = held_against(growing.values(), state, free)
    held = [a for tag, allocations in against.items() if tag not in replaced for a in allocations]
    ledger = CapacityLedger(free.capacity, held)
    for tag, other in state.backends.items():  # those that are not launched yet need their share too
        if tag not in growing:
            for _ in range(numbers.get(tag, reserved(state, tag)) - len(free.held.get(tag, ()))):
                ledger.place(other.resources)
    for tag, spec in growing.items():
        missing = numbers[tag] - (0 if tag in replaced else len(free.held.get(tag, ())))
        left = ledger.describe()
        if any(ledger.place(spec.resources) is None for _ in range(missing)):
            raise NoCapacityError(
                f"Cannot scale backend {tag!r} to {numbers[tag]} replicas: asked for"
                f" {describe_request(spec.resources, missing)} more, free beside the rest of the plan: {left}",
                spec.resources,
                missing,
            )


def _grows(state: Desired, new: BackendSpec, number: int) -> bool:
    old = state.backends.get(new.tag)
    return old is None or old.resources != new.resources or number > state.wanted(new.tag)


def _meddling(state: Desired, operation: Operation) -> tuple[str, str]:
    """The first object of the file that was changed since its apply began, and who did it; empty if none was. Of those
    that the plan does not change, only fields that the file sets count."""
    for name, before in operation.endpoints.items():
        if state.endpoints.get(name) != before or state.pins.get(name) != operation.pins.get(name):
            return ENDPOINT + name, _what_happened(state, operation, ENDPOINT + name, created=before is None)
    for name, fields in operation.plan.claims.items():
        kind, _, rest = name.partition("/")
        if rest in (operation.tags if kind == "backend" else operation.endpoints):
            continue
        if fields_of(state, name) is None or not _since(state, operation, name).keys().isdisjoint(fields):
            return name, _what_happened(state, operation, name, created=False)
    return "", ""


def _since(state: Desired, operation: Operation, name: str) -> dict[str, Mark]:
    """The marks of an object that are newer than the beginning of an apply."""
    marks = state.marks.get(name, Marks()).fields
    return {field: mark for field, mark in marks.items() if mark.version > operation.version}


def _what_happened(state: Desired, operation: Operation, name: str, *, created: bool) -> str:
    kind, _, rest = name.partition("/")
    if fields_of(state, name) is None:
        return f"{kind} {rest!r} was deleted meanwhile"
    new = _since(state, operation, name)
    by = max(new.values(), key=lambda mark: mark.version).by if new else ""
    what = "created" if created else f"changed {', '.join(sorted(new)) or 'a field'} of"
    return f"{by or 'someone'} {what} {kind} {rest!r} meanwhile"


def _ended(
    state: Desired, operation: Operation, how: str, name: str = "", text: str = "", traceback: str = ""
) -> Desired:
    """The state with an operation that has ended in it; the oldest ones are forgotten."""
    ended = Operation(
        id=operation.id,
        owner=operation.owner,
        by=operation.by,
        began=operation.began,
        version=state.version,
        tags=operation.tags,
        state=how,
        object=name,
        text=text,
        traceback=traceback,
    )
    others = without(state.operations, operation.id).values()
    kept = sorted(others, key=lambda one: (one.version, one.began))[-(KEPT_OPERATIONS - 1) :]
    return msgspec.structs.replace(state, operations={one.id: one for one in (*kept, ended)})


def _busy(operation: Operation) -> str:
    return (
        f"{operation.by or 'someone'} has been applying {operation.owner!r} since {operation.began}; try again once"
        " that has ended"
    )
