"""Handlers of calls about the configuration as a file: read it, compare one, carry one out.

Code of a file is loaded in a process of its own, and only for who may deploy it: for all others a file is compared by
its fields alone.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from pointsman.configfile.applying import declared_of, export_instance
from pointsman.configfile.checking import Config, check
from pointsman.configfile.exporting import variable_of
from pointsman.configfile.instance import differences
from pointsman.configfile.plan import Outcome, Packed, Rules, Wanted, plan, to_pack
from pointsman.configfile.problems import BadFileError
from pointsman.configfile.reading import Document, parse
from pointsman.configfile.tree import escaped, mapped
from pointsman.configfile.wanting import wanted_of
from pointsman.console.behalf import UserClient
from pointsman.console.bodies import ConfigFile
from pointsman.console.problems import Problem
from pointsman.console.table import Ask, Text, Versioned
from pointsman.engine.instances import on_ray, present_address
from pointsman.engine.relay import answer
from pointsman.exceptions import StateChangedError
from pointsman.model import BackendConfigSpec, Origin, Resources, Source, TargetTraits
from pointsman.model.tokens import DEPLOY, includes
from pointsman.wire.apply import Declared, WantedBackend

FILE = "config"
MOST_PROCESSES = 2
LONGEST_HERE = 16 * 1024
"""Bytes of a file that is read in this process: a mebibyte of YAML or TOML, chosen well, takes minutes."""
READING_S = 20
"""Of a processor's time, for a file whose code is not loaded."""
LONGEST_S = 3600.0
ON_CONFLICT = ("refuse", "overwrite", "keep")
NOWHERE = Origin("/", ())
_places = {loads: threading.BoundedSemaphore(MOST_PROCESSES) for loads in (True, False)}


class Order(msgspec.Struct):
    """What a process is told that carries a file out, or compares it with its code.

    Attributes:
        applies: whether it carries the file out.
        loads: whether it may load the file's code.
        relay: socket that is asked for the controller's address, as a new process is no part of the cluster.
    """

    instance: str
    control_path: str
    role: str
    key: bytes
    token: str
    idempotency: str
    file: ConfigFile
    on_conflict: str
    adopt: bool
    applies: bool
    loads: bool
    if_version: int | None = None
    relay: str = ""


def read_config(ask: Ask) -> Any:
    """The file of what runs."""
    client = ask.client
    version = declared_of(client).version
    found = export_instance(client, ask.query.get("owner"))
    if found.left_out and not _is_true(ask, "partial"):
        texts = "; ".join(f"{name}: {why}" for name, why in found.left_out.items())
        raise Problem(
            409, f"no file can have all of this; partial=true leaves it out: {texts}", more={"left_out": found.left_out}
        )
    if ask.query.get("format", "json") == "yaml":
        from pointsman.configfile.yamltree import write_yaml

        return Text(write_yaml(found.content), "application/yaml")
    return Versioned(mapped(found.content, lambda _, value: "inf" if value == float("inf") else value), version)


def diff_config(ask: Ask) -> Any:
    """What a file would change."""
    loads = includes(ask.holder.role, DEPLOY) and ("load" not in ask.query or _is_true(ask, "load"))
    if loads or len(ask.body.data) > LONGEST_HERE:
        return _by_process(ask, applies=False, loads=loads)
    declared = declared_of(ask.client)
    check_version(declared, ask.whole("if_version"))
    return diff_fields(ask.client, ask.body, declared, Rules(*_rules(ask)))


def diff_fields(client: UserClient, file: ConfigFile, declared: Declared, rules: Rules) -> Any:
    """What a file would change, as far as that shows without its code."""
    config = config_of(file, declared)
    if config.section.instance is not None and (problems := differences(config, declared, client._status())):
        raise BadFileError(problems)
    outcome = compare_fields(wanted_of(config, client._credentials.control_path), declared, rules)
    return {**outcome.as_json(), "loaded": False}


def apply_config(ask: Ask) -> Any:
    """Carry a file out."""
    return _by_process(ask, applies=True, loads=True)


def compare_fields(wanted: Wanted, declared: Declared, rules: Rules) -> Outcome:
    """What a file changes, as far as that shows without its code: code of the same name counts as the same."""
    packed = {}
    for tag, fields in to_pack(wanted, declared, rules).items():
        live = declared.backends.get(tag)
        content = live.source.content if live is not None else ""
        traits = live.traits if live is not None else TargetTraits(is_class=True)
        source = Source(path=fields["code"], content=content)
        packed[tag] = Packed(WantedBackend("", NOWHERE, traits, BackendConfigSpec(), Resources(), source), b"")
    return plan(wanted, declared, rules, packed)


def config_of(file: ConfigFile, declared: Declared) -> Config:
    """A file that was sent, checked. It has no folder of its own, so that its paths are absolute.

    The variables of this process are nobody's business: the only ones that it may name are values in ``env_vars`` that
    are in force already, by the names that an export gives them.

    Raises:
        BadFileError: something is wrong with it.
    """
    tree = parse(f"{FILE}{file.suffix}", file.data, file.suffix)
    plain = tree.value if isinstance(tree.value, dict) else {}
    folders = plain.get("python_path")
    absolute = [one for one in folders if isinstance(one, str)] if isinstance(folders, list) else []
    for folder in absolute:
        if not Path(folder).is_absolute():
            raise ValueError(f"python_path has {folder!r}; here each folder must be absolute")
    there = Path(absolute[0]) if absolute else Path("/")
    document = Document(f"{FILE}{file.suffix}", there, tree._replace(value=_with_values(tree.value, declared)))
    return check(document, {})


def _with_values(value: Any, declared: Declared) -> Any:
    """A file in whose ``env_vars`` what an export has hidden is as it is in force."""

    def change(keys: tuple[str | int, ...], given: Any) -> Any:
        if len(keys) == 5 and (keys[0], *keys[2:4]) == ("backends", "ray_actor_options", "env_vars"):
            tag, name = str(keys[1]), str(keys[4])
            live = declared.backends.get(tag)
            there = live.resources.env_vars if live is not None else {}
            if name in there and given == f"${{{variable_of(name)}}}":
                return escaped(there[name])
        return given

    return mapped(value, change)


def check_version(declared: Declared, seen: int | None) -> None:
    """Raise StateChangedError if the state is not of the version that was seen; None is any."""
    if seen is not None and declared.version != seen:
        raise StateChangedError(f"the state is of version {declared.version}, not {seen}; look at it again")


def _by_process(ask: Ask, *, applies: bool, loads: bool) -> Any:
    """What the process says that does it.

    Raises:
        Problem: what it says is a problem; 503: too many of them run.
    """
    credentials = ask.client._credentials
    relay = _relay_to(credentials.control_path) if on_ray(credentials.control_path) else ""
    if_version = ask.whole("if_version")
    seen = if_version if if_version is not None else ask.client.if_version
    order = Order(
        credentials.instance,
        credentials.control_path,
        credentials.role,
        credentials.key,
        ask.client.token,
        ask.client.key,
        ask.body,
        *_rules(ask),
        applies,
        loads,
        seen,
        relay,
    )
    places = _places[loads]
    if not places.acquire(blocking=False):
        raise Problem(503, f"{MOST_PROCESSES} files are being compared or carried out; try again", {"retry-after": "5"})
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pointsman.console.configprocess"],
            input=msgspec.msgpack.encode(order),
            stdout=subprocess.PIPE,
            cwd="/",
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Problem(503, f"the file was not carried out within {LONGEST_S:g} s") from None
    finally:
        places.release()
    if ended.returncode == -signal.SIGXCPU:
        raise ValueError(f"the file was not read within {READING_S} s of a processor's time; make it shorter")
    try:
        told = json.loads(ended.stdout)
    except ValueError:
        raise Problem(500, f"the process that loads code has ended with {ended.returncode}; the log says why") from None
    if "problem" in told:
        problem = told["problem"]
        more = {name: value for name, value in problem.items() if name not in ("title", "status", "detail")}
        raise Problem(problem["status"], problem["detail"], more=more)
    return Versioned(told["result"], told["version"])


@cache
def _relay_to(control_path: str) -> str:
    """The socket of a thread that says where the controller is."""
    path = f"{tempfile.mkdtemp(prefix='pointsman-')}/r"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    answering = partial(answer, listener, lambda: present_address(control_path))
    threading.Thread(target=answering, name="relay", daemon=True).start()
    return path


def _rules(ask: Ask) -> tuple[Any, bool]:
    on_conflict = ask.query.get("on_conflict", "refuse")
    if on_conflict not in ON_CONFLICT:
        raise ValueError(f"on_conflict must be one of {', '.join(ON_CONFLICT)}, not {on_conflict!r:.40}")
    return on_conflict, _is_true(ask, "adopt")


def _is_true(ask: Ask, name: str) -> bool:
    given = ask.query.get(name, "false")
    if given not in ("true", "false", "1", "0"):
        raise ValueError(f"{name} must be true or false, not {given!r:.40}")
    return given in ("true", "1")
