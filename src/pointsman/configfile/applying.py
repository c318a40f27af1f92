"""Compares files with an instance, and carries them out: the part that talks to the controller."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from pointsman.client import Client
from pointsman.client.operations import author, new_id
from pointsman.configfile.checking import Config, load
from pointsman.configfile.exporting import Export, export
from pointsman.configfile.fields import BACKEND_DEFAULTS, Fields
from pointsman.configfile.instance import differences
from pointsman.configfile.obstacles import Obstacle, obstacles
from pointsman.configfile.packing import load_policies, pack
from pointsman.configfile.plan import Outcome, Packed, Rules, plan, to_pack
from pointsman.configfile.problems import BadFileError, Problem, RefusedError, TakenBackError
from pointsman.configfile.wanting import wanted_of
from pointsman.exceptions import BusyError, ServeException, StateChangedError
from pointsman.progress import Activity
from pointsman.wire.apply import DONE, Declared, OperationView
from pointsman.wire.commands import Accepted, Apply, AwaitOperation, Progress, QueryDeclared, TakeBack
from pointsman.wire.control import InstanceGoneError
from pointsman.wire.messages import unpack

REFUSE = Rules()
#: How often a file is compared anew because the state has moved on meanwhile.
TRIES = 5

Show = Callable[[Progress], None]


class Planned(NamedTuple):
    """A file that was compared with an instance.

    Attributes:
        outcome: what it changes.
        operation: the apply of another that runs; None if none does.
        check_unchanged: raises ServeException if a file of its modules was changed since it was read.
    """

    outcome: Outcome
    operation: OperationView | None
    check_unchanged: Callable[[], None]


def declared_of(client: Client) -> Declared:
    """What a file is compared with."""
    client._check_alive()
    return unpack(client._session.command(QueryDeclared(new_id())), Declared)


def compare(client: Client, config: Config, rules: Rules = REFUSE) -> Planned:
    """Compare a file with an instance. Changes nothing.

    Raises:
        BadFileError: the file says something of the instance that is not so, or wants what others' objects rule out.
        CodeError: its code cannot be loaded.
    """
    declared = declared_of(client)
    if config.section.instance is not None and (problems := differences(config, declared, client._status())):
        raise BadFileError(problems)
    wanted = wanted_of(config, client._credentials.control_path)
    load_policies(config, wanted)
    packed, check_unchanged = _load(config, to_pack(wanted, declared, rules))
    outcome = plan(wanted, declared, rules, packed)
    if declared.operation is None and not outcome.conflicts:  # an apply that runs may still clear the way
        _check_obstacles(config, obstacles(outcome, declared))
    return Planned(outcome, declared.operation, check_unchanged)


def _check_obstacles(config: Config, found: list[Obstacle]) -> None:
    """Raise BadFileError if there are any, each with its place, if the file has one for it."""
    names = config.section.endpoints
    problems = [
        config.document.problem(one.keys, one.text)
        if one.keys[1] in names
        else Problem(config.document.file, None, one.text)
        for one in found
    ]
    if problems:
        raise BadFileError(problems)


def load_code(config: Config) -> None:
    """Load all code of a file on trial. Needs no instance.

    Raises:
        CodeError: it cannot be loaded.
    """
    wanted = wanted_of(config, None)
    load_policies(config, wanted)
    _load(config, {tag: {**BACKEND_DEFAULTS, **fields} for tag, fields in wanted.backends.items()})


def _load(config: Config, backends: dict[str, Fields]) -> tuple[dict[str, Packed], Callable[[], None]]:
    codes = len({fields["code"] for fields in backends.values()})
    with Activity(f"loading the code of {codes} function{'s' * (codes != 1)} or class{'es' * (codes != 1)}"):
        return pack(config, backends)


def apply_config(
    client: Client,
    config: Config,
    rules: Rules = REFUSE,
    *,
    if_version: int | None = None,
    planned: Planned | None = None,
    show: Show | None = None,
    accepted: Callable[[], None] | None = None,
) -> Outcome:
    """Carry out a file; returns when all of it is in force.

    Args:
        if_version: refuse if the state is not of this version.
        planned: what :func:`compare` has returned; it is compared again if the state has moved on since.
        show: called as replicas become ready.
        accepted: called when the controller has begun: from then on it goes on without this process.

    Raises:
        BadFileError, CodeError: the file or its code is wrong. Nothing has changed.
        RefusedError: fields conflict, another apply runs, or the state has moved on. Nothing has changed.
        TakenBackError: a step has failed, and all of them were taken back.
        ServeException: the instance has ended meanwhile; the text says whether the apply goes on with its next start.
    """
    for tries in range(TRIES):
        planned = planned or compare(client, config, rules)
        outcome = planned.outcome
        _refuse(planned, if_version)
        if not outcome.changes and outcome.is_noted:
            return outcome
        planned.check_unchanged()
        try:
            version = _carry_out(client, config, outcome, show, accepted)
        except StateChangedError as error:
            if if_version is not None or tries == TRIES - 1:
                raise RefusedError(f"{error}; nothing has changed") from None
            planned = None
            continue
        except BusyError as error:
            raise RefusedError(str(error)) from None
        return outcome._replace(version=version)
    raise AssertionError


def _refuse(planned: Planned, if_version: int | None) -> None:
    outcome, running = planned.outcome, planned.operation
    if if_version is not None and outcome.version != if_version:
        raise RefusedError(f"the state is of version {outcome.version}, not {if_version}; nothing has changed")
    if outcome.conflicts:
        one_of = "--overwrite takes the file's value, --keep what is in force, and --adopt takes objects over"
        text = "\n".join(map(str, outcome.conflicts))
        raise RefusedError(f"{text}\nNothing has changed: {one_of}", outcome.conflicts)
    if running is not None:
        raise RefusedError(
            f"an apply of {running.owner!r} by {running.by} runs since {running.began}; try again once it has ended"
        )


def _carry_out(
    client: Client, config: Config, outcome: Outcome, show: Show | None, accepted: Callable[[], None] | None
) -> int:
    """Send the command and wait for its end; returns the version of the state."""
    command = Apply(new_id(), config.owner, outcome.version, outcome.plan, outcome.codes, by=author())
    session, state_dir = client._session, client._status().state_dir
    unpack(session.command(command), Accepted)
    if accepted is not None:
        accepted()
    try:
        ended = unpack(session.command(AwaitOperation(new_id(), command.id), progress=show), OperationView)
    except InstanceGoneError:
        raise ServeException(_what_is_left(state_dir)) from None
    if ended.state != DONE:
        raise TakenBackError(ended)
    return ended.version


def _what_is_left(state_dir: str) -> str:
    """What becomes of an apply whose instance has ended, in words."""
    ended = "the instance has ended during the apply"
    if not state_dir:
        return f"{ended}; nothing of either is kept, since it had no state_dir"
    return f"{ended}, which goes on when the instance is started again with its state in {state_dir}"


def take_back(client: Client) -> OperationView | None:
    """Take the apply that runs back: all is as before it began, and whoever waits for it is told who did this.

    Returns:
        How it has ended, which is not ``taken back`` if it was faster; None if none runs.
    """
    running = declared_of(client).operation
    if running is None:
        return None
    session = client._session
    unpack(session.command(TakeBack(new_id(), running.id, by=author())), Accepted)
    return unpack(session.command(AwaitOperation(new_id(), running.id)), OperationView)


def apply_file(client: Client, path: str | os.PathLike[str], rules: Rules = REFUSE, **given: Any) -> Outcome:
    """:func:`apply_config` of a file that is read now."""
    return apply_config(client, load(path), rules, **given)


def export_instance(client: Client, owner: str | None = None) -> Export:
    """A file of what runs; see :func:`~pointsman.configfile.exporting.export`."""
    return export(declared_of(client), owner, client._status().name or "default")
