"""A newcomer's first minutes, as README.md has them: the script and each command after it, in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_examples import BLOCK, ROOT

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed, and the page uses it")

README = (ROOT / "README.md").read_text()
START = "serve.start(detached=True)"
ON_A_FREE_PORT = 'serve.start(detached=True, http_options={"port": 0}, metrics_export_port=0)'
PORT = "8000"
COMMAND_TIMEOUT_S = 100.0
SESSION = re.compile(r"^```console\n(\$ .*?)^```$", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
"""A command of a session, and the lines that it prints; without any, what it prints is not on the page."""


class Shell:
    """Where the reader types: in one folder, with what was installed on the PATH."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def __call__(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell("pointsman stop")


def test_readme_from_top_to_bottom(shell: Shell, tmp_path: Path) -> None:
    """Whoever saves the script and types the commands sees what the page shows, and ends the instance (IN6, IN15).

    Only ports are changed here.
    """
    (script,) = BLOCK.findall(README)
    assert START in script
    (tmp_path / "greet.py").write_text(script.replace(START, ON_A_FREE_PORT))
    typed = [command for session in SESSION.findall(README) for command in TYPED.findall(session)]
    assert [command.split()[0] for command, _ in typed] == ["python", "curl", *["pointsman"] * 5]
    port = PORT
    for command, printed in typed:
        ended = shell(command.replace(f":{PORT}", f":{port}"))
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        if found := re.search(r"Serving at http://127\.0\.0\.1:(\d+)/", ended.stdout):
            port = found[1]
        if printed:
            assert ended.stdout.rstrip("\n") == printed.replace(f":{PORT}", f":{port}").rstrip("\n"), command
    assert "no instance named 'default' is running" in shell("pointsman status").stderr


def test_a_second_run_deploys_anew(shell: Shell, tmp_path: Path) -> None:
    """A changed class takes over while the instance serves: connect() stands in place of start(), as is said (DP3)."""
    (script,) = BLOCK.findall(README)
    (tmp_path / "greet.py").write_text(script.replace(START, ON_A_FREE_PORT))
    assert shell("python greet.py").returncode == 0
    assert "write `serve.connect()` for `serve.start(detached=True)` and run" in " ".join(README.split())
    changed = script.replace(START, "serve.connect()").replace('"Hello"', '"Welcome"')
    (tmp_path / "greet.py").write_text(changed)
    ended = shell("python greet.py")
    assert ended.returncode == 0, ended.stderr
    (address,) = re.findall(r"Serving at (\S+)", ended.stdout)
    assert shell(f"""curl --json '{{"name": "Ada"}}' {address}""").stdout == '{"text":"Welcome, Ada!","by":"greet"}'


def test_readme_is_short() -> None:
    """It can be read in two minutes: at most 130 lines."""
    assert len(README.splitlines()) <= 130
