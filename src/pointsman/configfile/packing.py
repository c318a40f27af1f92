"""Imports the code of a file on trial, each module once for each environment and import path, and packs it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import msgspec

from pointsman.actor_options import check_hash_seed
from pointsman.backends import ImportedBackend
from pointsman.client.importing import custom_policy, scaling_policy
from pointsman.client.packing import origin_for
from pointsman.client.sources import commit_of
from pointsman.configfile.checking import Config
from pointsman.configfile.environment import env_kind
from pointsman.configfile.fields import Fields
from pointsman.configfile.plan import Packed, Wanted
from pointsman.configfile.problems import CodeError, Problem, sentence
from pointsman.environments.rehearsal import Rehearsed, try_import
from pointsman.environments.resolve import resolve
from pointsman.exceptions import ServeException
from pointsman.model import BackendConfigSpec, Environment, Origin, Resources, Source
from pointsman.usercode.content import content_digest
from pointsman.usercode.packing import code_digest, pack_code
from pointsman.wire.apply import WantedBackend


class _Trial(msgspec.Struct, frozen=True):
    """What a trial import depends on. Backends that have all of this in common need one only."""

    path: str
    variables: dict[str, str]
    origin: Origin


def pack(config: Config, backends: Mapping[str, Fields]) -> tuple[dict[str, Packed], Callable[[], None]]:
    """Load the code of backends on trial, and pack it.

    Args:
        backends: all fields of each, by tag.

    Returns:
        The backends by tag; and a function that raises ServeException if a file of their modules was changed since it
        was read.

    Raises:
        CodeError: code cannot be loaded. The error has all that is wrong with any of it.
    """
    problems: list[Problem] = []
    named = {tag: json.dumps(fields["env"]) for tag, fields in backends.items()}
    environments = _all(named.values(), lambda env: resolve(env_kind(json.loads(env), config.folder)))
    trials: dict[str, bytes] = {}
    for tag, fields in backends.items():
        environment = environments[named[tag]]
        if isinstance(environment, Exception):
            problems.append(config.document.problem(("backends", tag, "env"), sentence(environment)))
        else:
            trials[tag] = msgspec.msgpack.encode(_trial(fields, environment, config), order="sorted")
    results = _all(trials.values(), _rehearse)
    packed: dict[str, Packed] = {}
    commit = cache(commit_of)
    for tag, trial in trials.items():
        result = results[trial]
        error = result if isinstance(result, Exception) else _misfit(result, backends[tag])
        if error is not None:
            problem = config.document.problem(("backends", tag, "code"), sentence(error))
            problems.append(problem._replace(traceback=getattr(error, "traceback", "")))
        else:
            origin = msgspec.msgpack.decode(trial, type=_Trial).origin
            place = result.folder or str(config.folder)
            packed[tag] = _packed(backends[tag], named[tag], origin, result, commit(place))
    if problems:
        raise CodeError(problems)
    return packed, lambda: _check_unchanged(results.values())


def load_policies(config: Config, wanted: Wanted) -> None:
    """Import the custom policies of a file on trial.

    Raises:
        CodeError: one cannot be imported, or is none.
    """
    problems = []
    for tag, fields in wanted.backends.items():
        autoscaling = fields.get("config.autoscaling")
        try:
            if autoscaling is not None and "policy" in autoscaling.value:
                scaling_policy(autoscaling.value["policy"], wanted.policy_folders)
        except (TypeError, ImportError) as error:
            keys = ("backends", tag, "config", "autoscaling")
            problems.append(config.document.problem(keys, sentence(error)))
    for name, fields in wanted.endpoints.items():
        try:
            if fields.get("custom") is not None:
                custom_policy(fields["custom"], wanted.policy_folders)
        except (TypeError, ValueError) as error:
            problems.append(config.document.problem(("endpoints", name, "custom"), sentence(error)))
    if problems:
        raise CodeError(problems)


def _all(keys: Any, make: Callable[[Any], Any]) -> dict[Any, Any]:
    """What a function returns or raises, for each different key; side by side, since most of the time is waiting."""

    def caught(key: Any) -> Any:
        try:
            return make(key)
        except (TypeError, ValueError, OSError, ServeException) as error:
            return error

    different = list(dict.fromkeys(keys))
    with ThreadPoolExecutor(max(1, min(len(different), os.cpu_count() or 1))) as threads:
        return dict(zip(different, threads.map(caught, different), strict=True))


def _trial(fields: Fields, environment: Environment, config: Config) -> _Trial:
    resources: Resources = fields["ray_actor_options"]
    origin = origin_for(environment, resources, Origin(str(config.folder), config.folders))
    return _Trial(fields["code"], resources.env_vars, origin)


def _rehearse(packed: bytes) -> Rehearsed:
    trial = msgspec.msgpack.decode(packed, type=_Trial)
    environment = trial.origin.environment
    assert environment is not None
    check_hash_seed(environment.variables)
    variables = {**environment.variables, **trial.variables}
    blob = pack_code(ImportedBackend(trial.path), ())
    return try_import(trial.path, blob, trial.origin, msgspec.structs.replace(environment, variables=variables))


def _misfit(result: Rehearsed, fields: Fields) -> Exception | None:
    if not result.traits.is_class and fields["args"].value:
        return ValueError(f"{fields['code']} is no class, so that it cannot have args")
    return None


def _packed(fields: Fields, env: str, origin: Origin, result: Rehearsed, commit: str) -> Packed:
    args = fields["args"].value
    blob = pack_code(ImportedBackend(fields["code"]), tuple(args))
    source = Source(
        path=fields["code"],
        name=fields["code"].partition(":")[2],
        args=json.dumps(args, ensure_ascii=False).encode(),
        env=env.encode(),
        content=result.content,
        version=fields["version"],
        commit=commit,
    )
    resources: Resources = fields["ray_actor_options"]
    digest = code_digest(blob)
    return Packed(WantedBackend(digest, origin, result.traits, BackendConfigSpec(), resources, source), blob)


def _check_unchanged(rehearsed: Iterable[Rehearsed]) -> None:
    for one in rehearsed:
        if content_digest(one.files) != one.content:
            files = ", ".join(sorted(set(one.files.values())))
            raise ServeException(
                f"a file was changed while its code was loaded; nothing was sent. It is one of {files}"
            )
