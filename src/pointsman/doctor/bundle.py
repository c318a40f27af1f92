"""A file for whoever helps: what the doctor saw, and logs of our own processes, without secrets.

Logs of replicas are left out, since they have what user code prints, of which nobody can tell what is secret; so are
texts of exceptions, ``user_config``, init arguments, keys and files of users.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import platform
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pointsman.doctor.instance import Looked, files_in
from pointsman.doctor.judging import Finding, Machine
from pointsman.doctor.redacting import Redactor, is_secret_name, without_texts_of_exceptions

ROOT = "pointsman-doctor"
OUR_LOGS = ("controller", "ingress", "supervisor", "console", "comparer")
MOST_OF_A_LOG = 512 * 1024
MOST_LOGS = 60
README = """\
What `pointsman doctor --bundle` has gathered. Secrets are replaced by ***: values of env_vars, of environment variables
with names such as TOKEN, and what looks like a key. Not in here: logs of replicas, user_config, init arguments, API
keys, tokens, texts of exceptions of user code. Look through it before you send it on.
"""


def write_bundle(file: Path, findings: Sequence[Finding], machine: Machine, instances: Sequence[Looked]) -> None:
    """Write a tar.gz that only this user can read.

    Raises:
        OSError: the file is there already, or cannot be written; then there is none.
    """
    redactor = Redactor(_secrets(instances))
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as target, tarfile.open(fileobj=target, mode="w:gz") as tar:
            for name, text in _members(findings, machine, instances, redactor):
                data = text.encode(errors="replace")
                member = tarfile.TarInfo(f"{ROOT}/{name}")
                member.size, member.mode, member.mtime = len(data), 0o600, int(machine.clock)
                tar.addfile(member, io.BytesIO(data))
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _secrets(instances: Sequence[Looked]) -> Iterator[str]:
    """What is known to be secret: what users gave to their backends, and variables here with a secret's name."""
    for one in instances:
        yield from one.said.secrets if one.said is not None else ()
    for name, value in os.environ.items():
        if is_secret_name(name):
            yield value


def _members(
    findings: Sequence[Finding], machine: Machine, instances: Sequence[Looked], redactor: Redactor
) -> Iterator[tuple[str, str]]:
    yield "README.txt", README
    yield "findings.json", _json([one._asdict() for one in findings], redactor)
    shown = machine._asdict() | {"killed": [one._asdict() for one in machine.killed]}
    shown |= {"system": platform.platform(), "variables_set": sorted(os.environ)}
    yield "machine.json", _json(shown, redactor)
    yield "packages.txt", redactor.text("\n".join(_packages()) + "\n")
    for one in instances:
        folder = f"instances/{_safe(one.condition.name)}"
        condition = one.condition._asdict() | {"status": {}}
        yield f"{folder}/condition.json", _json(condition, redactor)
        if one.said is not None:
            for part in ("status", "stats", "history", "failures"):
                yield f"{folder}/{part}.json", _json(getattr(one.said, part), redactor)
        if one.condition.logs:
            for name, text in _logs(Path(one.condition.logs)):
                yield f"{folder}/logs/{name}", redactor.text(without_texts_of_exceptions(text))


def _logs(folder: Path) -> Iterator[tuple[str, str]]:
    """The ends of the newest logs of our own processes."""
    ours = [file for file in files_in(folder) if Path(file.path).name.startswith(OUR_LOGS)]
    for file in sorted(ours, key=lambda file: file.changed, reverse=True)[:MOST_LOGS]:
        with contextlib.suppress(OSError), open(file.path, "rb") as log:  # it may have just gone
            log.seek(max(0, file.size - MOST_OF_A_LOG))
            yield Path(file.path).name, log.read().decode(errors="replace")


def _packages() -> Iterable[str]:
    found = {f"{one.metadata['Name']}=={one.version}" for one in importlib.metadata.distributions()}
    return sorted(found, key=str.lower)


def _json(value: Any, redactor: Redactor) -> str:
    return json.dumps(redactor.value(value), indent=2, default=str) + "\n"


def _safe(name: str) -> str:
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in name)
