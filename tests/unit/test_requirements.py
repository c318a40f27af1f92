"""Environments from requirements: what may be asked for, when one is the same as another, and when it may go."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import pointsman as serve
from pointsman.cli.tables import show_environments
from pointsman.environments import requirements
from pointsman.environments.requirements import (
    MARK,
    Installer,
    Recipe,
    StoredEnvironment,
    ensure,
    environments_folder,
    find_installer,
    interpreter_build,
    open_lock,
    prunable,
    remove,
    remove_dangling_links,
    stored_environments,
)
from pointsman.usercode.paths import PACKAGE

MADE = Recipe(("a==1",), ("msgspec",), "/usr/bin/python", "3.11.7")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cache").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- what users write -------------------------------------------------------------------------------------------


def test_order_and_spaces_do_not_matter() -> None:
    """The same requirements in another order are the same environment (DM1)."""
    assert serve.Requirements(["b", "a ==  1"]) == serve.Requirements(("a == 1", "b", "b"))
    assert hash(serve.Requirements(["a"])) == hash(serve.Requirements(["a"]))
    assert serve.Requirements(["a"], python="python").python == str(Path("python").absolute())


@pytest.mark.parametrize("packages", ["numpy", {"numpy"}, None, [3], [b"numpy"]])
def test_packages_of_another_type(packages: object) -> None:
    """One string is no list: its letters would be taken for packages (DM2)."""
    with pytest.raises(TypeError, match="takes a list of str"):
        serve.Requirements(packages)  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["", "-r file", "--index-url=http://x", "./local", "/abs", "a\n-e b", "# a"])
def test_options_are_no_requirements(package: str) -> None:
    """What an installer would take for an option, a file or a second line is refused (S4, S11)."""
    with pytest.raises(ValueError, match="is not a requirement"):
        serve.Requirements(["numpy", package])


def test_other_arguments() -> None:
    """Interpreter and installer are checked too (DM2)."""
    with pytest.raises(TypeError, match="path of an interpreter"):
        serve.Requirements(["a"], python=3.11)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'poetry'.*'uv' or 'pip'"):
        serve.Requirements(["a"], installer="poetry")  # type: ignore[arg-type]


def test_digest_is_of_all_that_decides() -> None:
    """Another package, interpreter or version of it is another environment (DM1)."""
    others = [
        Recipe(("a==2",), MADE.runtime, MADE.python, MADE.version),
        Recipe(MADE.packages, ("msgspec>=1",), MADE.python, MADE.version),
        Recipe(MADE.packages, MADE.runtime, "/opt/python", MADE.version),
        Recipe(MADE.packages, MADE.runtime, MADE.python, "3.12.1"),
    ]
    assert len({made.digest for made in [MADE, *others]}) == 5
    assert (
        MADE.digest
        == Recipe(*MADE.__struct_fields__ and (MADE.packages, MADE.runtime, MADE.python, MADE.version)).digest
    )


# --- making -----------------------------------------------------------------------------------------------------


def test_installers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """uv is used where it is, beside the interpreter or on the PATH; pip where it is not, or is wanted."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_installer(None).uv is None
    with pytest.raises(ValueError, match="there is no uv on the PATH"):
        find_installer("uv")
    uv = tmp_path / "uv"
    uv.write_text("")
    uv.chmod(0o755)
    assert find_installer(None).uv == find_installer("uv").uv == str(uv)
    assert find_installer("pip").uv is None


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["Collecting a", "ERROR: No a (from versions: 1, 2)", "ERROR: none"], "No a; none"),
        (["Using x", "error: No solution", "  cause: Because a", "and b."], "No solution cause: Because a and b."),
        (
            ["  \N{MULTIPLICATION SIGN} No solution:", "  ╰─▶ Because a", "      and b."],
            "No solution: Because a and b.",
        ),
        ([], ""),
    ],
)
def test_what_installers_complain_about(lines: list[str], reason: str) -> None:
    """The reason of a failure is one line, whichever tool gives it (DM6)."""
    assert requirements._reason(deque(lines)) == reason


class Tool:
    """An installer that makes a folder, and fails when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[list[str]] = []
        self.error: BaseException | None = None
        monkeypatch.setattr(Installer, "make", self._make)
        monkeypatch.setattr(requirements, "find_installer", lambda wanted: Installer("tool", None))

    def _make(self, what: str, prefix: Path, python: str, packages: list[str], say: object, lock: int) -> None:
        self.calls.append(packages)
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin" / "python").symlink_to(python)
        if self.error is not None:
            raise self.error


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    return Tool(monkeypatch)


def make(*packages: str) -> Path:
    return ensure(serve.Requirements(packages), sys.executable, interpreter_build())


def test_made_once(tool: Tool) -> None:
    """A second backend with the same requirements finds the environment there, with what replicas need (DM1)."""
    first = make("a==1")
    assert make("a==1") == first != make("b")
    assert len(tool.calls) == 2
    assert tool.calls[0][0] == "a==1"
    assert {package.partition(">")[0] for package in tool.calls[0][1:]} == {
        "cloudpickle",
        "msgspec",
        "starlette",
        "uvloop",
    }
    assert json.loads((first / MARK).read_text())["packages"] == ["a==1"]


@pytest.mark.parametrize("error", [ValueError("no a"), KeyboardInterrupt()])
def test_nothing_half_made_is_left(tool: Tool, error: BaseException) -> None:
    """A failure, or Ctrl-C, while an environment is made leaves nothing of it (DM6)."""
    tool.error = error
    with pytest.raises(type(error)):
        make("a==1")
    assert not list(environments_folder().iterdir())


def test_what_was_cut_off_is_made_anew(tool: Tool) -> None:
    """An environment whose maker was killed is not taken for a whole one."""
    prefix = make("a==1")
    (prefix / MARK).unlink()
    (prefix / "rest").write_text("")
    assert make("a==1") == prefix
    assert not (prefix / "rest").exists()
    shutil.rmtree(prefix / "bin")
    make("a==1")
    assert len(tool.calls) == 3


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    lock = open_lock(tmp_path)
    yield lock
    os.close(lock)


def test_tools_that_fail(tmp_path: Path, lock: int) -> None:
    """An installer's exit code is a reason where it says nothing, and a tool that is gone is an error too (DM6)."""
    silent = tmp_path / "uv"
    silent.write_text("#!/bin/sh\nexit 3\n")
    silent.chmod(0o755)
    with pytest.raises(ValueError, match="environment of a could not be made, uv says: exit code 3"):
        Installer("uv", str(silent)).make("environment of a", tmp_path / "e", sys.executable, ["a"], print, lock)


def test_tools_that_hang(tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installer that does not come to an end is stopped with all that it has started."""
    hanging = tmp_path / "uv"
    hanging.write_text("#!/bin/sh\nsleep 60 & echo begun; wait\n")
    hanging.chmod(0o755)
    monkeypatch.setattr(requirements, "TIMEOUT_S", 0.2)
    said: list[str] = []
    with pytest.raises(ValueError, match=r"uv was not done after 0\.2 s"):
        Installer("uv", str(hanging)).make("environment of a", tmp_path / "e", sys.executable, ["a"], said.append, lock)


# --- removing ---------------------------------------------------------------------------------------------------


def test_what_may_go() -> None:
    """An environment goes when no backend uses it and nobody has asked for it lately; a half-made one at once."""
    old = StoredEnvironment(Path("/e"), MADE, 1, 4000.0)
    assert prunable(old, [], 0.0)
    assert not prunable(old, [old.python], 0.0)
    assert not prunable(old, [], 5000.0)
    assert not prunable(old._replace(unused_s=10.0), [], 0.0)
    assert prunable(old._replace(unused_s=10.0, recipe=None), [], 0.0)


def test_list_and_remove(tool: Tool) -> None:
    """What is listed can be removed, but not while it is being made."""
    make("a==1")
    (kept,) = stored_environments()
    assert kept.recipe is not None
    assert kept.recipe.packages == ("a==1",)
    assert kept.size > 0
    lock = open_lock(kept.prefix)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert not remove(kept)
    os.close(lock)
    assert remove(kept)
    assert stored_environments() == []


def test_links_to_what_is_gone(tmp_path: Path) -> None:
    """A link to a package that was removed goes, others stay."""
    from pointsman.engine.folder import cache_folder, link_folder

    (tmp_path / "module").mkdir()
    gone, stays = Path(link_folder(str(tmp_path / "module"))), Path(link_folder(PACKAGE))
    assert (gone / "module").resolve() == tmp_path / "module"
    assert link_folder(PACKAGE) == str(stays)
    (tmp_path / "module").rmdir()
    remove_dangling_links()
    assert list(cache_folder("links").iterdir()) == [stays]


def test_table() -> None:
    """Who looks at the terminal sees what there is, how large, and what became of it."""
    screen = io.StringIO()
    one = {"packages": ["a==1", "b"], "python": "/e/bin/python", "version": "3.11.7", "bytes": 26_000_000}
    gone, used = {**one, "unused_s": 7200, "state": "removed"}, {**one, "unused_s": 3, "state": "in use"}
    show_environments([gone, used], Console(file=screen, width=100))
    lines = [line.split("  ") for line in screen.getvalue().splitlines()]
    shown = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert ["a==1, b", "3.11.7", "26.0 MB", "2 h ago", "removed"] in shown
    assert ["a==1, b", "3.11.7", "26.0 MB", "3 s ago", "in use"] in shown
    assert shown[-1] == ["26.0 MB were freed."]
