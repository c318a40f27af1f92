"""cli.completion: scripts for shells, and what they offer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.completion import completion_init
from typer.testing import CliRunner

from pointsman.cli import completion
from pointsman.cli.main import app
from pointsman.engine.folder import runtime_folder
from pointsman.engine.local.folder import About, InstanceFolder
from pointsman.engine.local.lasttable import LastTable
from pointsman.model import BackendRoute, EndpointSpec, ReplicaRef, RoutingTable, TrafficPolicy
from pointsman.wire.messages import pack

ROUTES = {"rank": "/rank", "a b": "/a b"}
PROGRAM = str(Path(sys.executable).with_name("pointsman"))


def script(shell: str) -> str:
    done = CliRunner().invoke(app, ["completion", shell])
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An instance named `shop` that lives, as far as its folder says, and nothing else of this user."""
    base = Path(tempfile.mkdtemp(dir="/tmp", prefix="pc"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    folder = InstanceFolder.of("shop")
    folder.create()  # the lock is held until this process ends
    folder.write("about", msgspec.json.encode(About("id", "shop", 1, "127.0.0.1", 8000, 300.0, 1)))
    backends = ("ranker-v1", "ranker-v2", "r $(touch x)", "über")
    endpoints = ("rank", "rank/eu", "a b")
    table = RoutingTable(
        1,
        {name: EndpointSpec(name, ROUTES.get(name), (), TrafficPolicy(1, {"ranker-v1": 1.0})) for name in endpoints},
        {tag: BackendRoute(tag, (ReplicaRef(1, f"{tag}#abcdef", "", b""),), 1, 1) for tag in backends},
    )
    LastTable(folder).keep(pack(table))
    yield base
    shutil.rmtree(base)


def offered(words: str) -> list[str]:
    """What bash offers for a command line that ends here."""
    env = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1), completion.VARIABLE: "complete_bash"}
    completion_init()
    done = CliRunner().invoke(app, [], prog_name="pointsman", env=env)
    assert done.exit_code == 0, done.exception
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("pointsman sta", ["start", "status"]),
        ("pointsman status --name ", ["shop"]),
        ("pointsman traffic show --name shop r", ["rank", "rank/eu"]),
        ("pointsman traffic set --name shop rank ", ["ranker-v1=", "ranker-v2="]),
        ("pointsman traffic shadow --name shop rank ranker-v", ["ranker-v1", "ranker-v2"]),
        ("pointsman logs --name shop ", ["ranker-v1", "ranker-v2"]),
        ("pointsman logs --name shop --replica ranker-v2", ["ranker-v2#abcdef"]),
        ("pointsman traffic show --name gone r", []),
        ("pointsman traffic show --name .. r", []),
        ("pointsman do", ["doctor"]),
        ("pointsman doctor --name s", ["shop"]),
        ("pointsman load --rate 10 ", ["http://127.0.0.1:8000/rank"]),
        ("pointsman load ftp", []),
        ("pointsman no-such-command x", []),
    ],
)
def test_names_of_what_lives_are_offered(words: str, expected: list[str], live: Path) -> None:
    """I press Tab and get commands, instances, endpoints, backends and replicas; never a name that my shell would take
    for something else, and never an error (LT4)."""
    assert offered(words) == expected


def test_nothing_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no instance runs, or this user has no folder that is its own, Tab offers nothing and says nothing (LT4)."""
    with tempfile.TemporaryDirectory(prefix="pm", dir="/tmp") as base:  # a short path: sockets would lie there
        monkeypatch.setenv("XDG_RUNTIME_DIR", base)
        assert offered("pointsman status --name ") == []
        folder = Path(base) / "pointsman"
        assert runtime_folder() == folder
        folder.chmod(0o777)
        assert offered("pointsman status --name ") == []
        assert offered("pointsman traffic show ") == []


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_shell_takes_the_script(shell: str) -> None:
    """The script is one that the shell understands (LT4)."""
    text = script(shell)
    assert completion.VARIABLE in text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    checked = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_bash_completes(live: Path) -> None:
    """In a real bash the names arrive in COMPREPLY, and nothing else is printed (LT4)."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    line = f"""
{script("bash")}
COMP_WORDS=({PROGRAM} traffic show --name shop ra) COMP_CWORD=5
_pointsman_completion {PROGRAM}
printf '<%s>' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "--norc", "-c", line], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("<rank><rank/eu>", "")


def test_fish_completes(live: Path) -> None:
    """In a real fish the names are offered, and nothing else is printed (LT4)."""
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    line = f"{script('fish')}\ncomplete --do-complete 'pointsman traffic show --name shop ra'"
    env = {**os.environ, "PATH": f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["fish", "--no-config", "-c", line], capture_output=True, text=True, check=False, env=env)
    assert (done.stdout.split(), done.stderr) == (["rank", "rank/eu"], "")


def test_zsh_completes(live: Path) -> None:
    """In a real zsh the names arrive at the completion system, and nothing else is printed (LT4)."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    line = f"""
compdef() {{ }}
_arguments() {{ print -r -- "$@" }}
{script("zsh")}
words=(pointsman traffic show --name shop ra) CURRENT=6
_pointsman_completion
"""
    env = {**os.environ, "PATH": f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["zsh", "--no-rcs", "-c", line], capture_output=True, text=True, check=False, env=env)
    assert done.stderr == ""
    assert re.findall(r'"(rank[^"]*)"', done.stdout) == ["rank", "rank/eu"]


def test_an_unknown_shell() -> None:
    """I ask for a shell that it does not know, and am told which it does: exit 2."""
    done = CliRunner().invoke(app, ["completion", "tcsh"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert all(shell in done.stderr for shell in completion.SHELLS)
