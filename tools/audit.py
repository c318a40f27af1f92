"""What the package brings along: known vulnerabilities, licences and a list for machines. ``make audit``.

Looks at what is installed beside it here. A vulnerability that is known of a package, or a licence of a required one
that is not in ALLOWED, is an error. Where no database of vulnerabilities can be reached, this says so and is none.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

UV = str(Path(sys.executable).parent / "uv")
AUDIT = (UV, "tool", "run", "--from", "pip-audit>=2.9,<3", "pip-audit")
ALLOWED = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "PSF-2.0"}
"""SPDX identifiers of licences that ask for no more than to be passed on with what they are of."""

SPELLED = {
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}
"""How older metadata says it."""


class Package(NamedTuple):
    name: str
    version: str
    licence: str
    extra: str
    """By which it comes: ``""`` for what is always required."""


def packages() -> list[Package]:
    """What is required, directly or not, and after it what extras bring, as far as it is installed."""
    found: dict[str, Package] = {}
    extras = importlib.metadata.metadata("pointsman").get_all("Provides-Extra") or []
    for extra in ("", *extras):
        for name in closure("pointsman", {extra}):
            if name not in found and name != "pointsman":
                metadata = importlib.metadata.metadata(name)
                found[name] = Package(metadata["Name"], metadata["Version"], licence_of(name), extra)
    return sorted(found.values(), key=lambda package: (package.extra, package.name.lower()))


def closure(root: str, extras: set[str]) -> Iterator[str]:
    """Names of what a distribution requires with these extras, and what that requires, as far as it is installed."""
    todo, seen = [(root, frozenset(extras))], set()
    while todo:
        item = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        name, wanted = item
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        yield name
        for text in requires:
            requirement = Requirement(text)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in wanted or {""}):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras | {""})))


def licence_of(name: str) -> str:
    """The SPDX expression of an installed distribution, or whatever its metadata says."""
    metadata = importlib.metadata.metadata(name)
    if metadata["License-Expression"]:
        return str(metadata["License-Expression"])
    classifiers = metadata.get_all("Classifier") or []
    said = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License :: ")]
    text = metadata["License"] or ""
    first = text if "\n" not in text and len(text) < 40 else ""
    return " OR ".join(SPELLED.get(one, one) for one in said) or SPELLED.get(first, first) or "not said"


def is_allowed(licence: str) -> bool:
    """Whether one of the choices of an SPDX expression is allowed with all that it joins."""
    choices = licence.replace("(", "").replace(")", "").split(" OR ")
    return any(all(part in ALLOWED for part in choice.split(" AND ")) for choice in choices)


def vulnerabilities(found: list[Package]) -> tuple[list[str], str]:
    """What is known of these versions, a line each, and why nothing or not all could be found out, or ``""``."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "requirements.txt"
        pins.write_text("".join(f"{package.name}=={package.version}\n" for package in found))
        options = ("--requirement", str(pins), "--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off")
        done = subprocess.run([*AUDIT, *options, "--timeout=15"], capture_output=True, text=True, check=False)
    return read_report(done.stdout, done.stderr)


def read_report(report: str, errors: str) -> tuple[list[str], str]:
    """The same, of what pip-audit has written to its outputs."""
    try:
        looked_up = json.loads(report)["dependencies"]
    except ValueError:
        return [], (errors.strip().splitlines() or ["pip-audit says nothing"])[-1]
    known = [
        f"{package['name']} {package['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'none'}"
        for package in looked_up
        for one in package.get("vulns", [])
    ]
    skipped = [package["skip_reason"] for package in looked_up if "skip_reason" in package]
    return known, f"{len(skipped)} of {len(looked_up)} packages: {skipped[0]}" if skipped else ""


def main() -> None:
    found = packages()
    print(f"{'package':<42} {'version':<12} {'by':<9} licence")
    for package in found:
        print(f"{package.name:<42} {package.version:<12} {package.extra or 'required':<9} {package.licence}")
    core = [package for package in found if not package.extra]
    refused = [f"{package.name}: {package.licence}" for package in core if not is_allowed(package.licence)]
    said = f"not allowed: {', '.join(refused)}" if refused else "all allowed"
    print(f"\nLicences of {len(core)} required packages: {said}")
    known, why = vulnerabilities(found)
    for line in known or ["none is known of what could be looked up" if why else "none is known"]:
        print(f"Vulnerabilities: {line}")
    if why:
        print(f"Not looked up: {why}")
    sys.exit(1 if refused or known else 0)


if __name__ == "__main__":
    main()
