"""A newcomer's first minutes, as README.md has them: the script and each command after it, in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.test_examples import BLOCK, ROOT

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed, and the page uses it")

README = (ROOT / "README.md").read_text()
PORT = "8000"
FREE_PORTS = "--port 0 --metrics-export-port 0 --console-port -1"
COMMAND_TIMEOUT_S = 100.0
SESSION = re.compile(r"^```console\n(\$ .*?)^```$", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
"""A command of a session, and the lines that it prints; without any, what it prints is not on the page."""


class Shell:
    """Where the reader types: in one folder, with what was installed on the PATH."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def start(self, command: str) -> subprocess.Popen[str]:
        """Type a command that goes on."""
        return subprocess.Popen(
            ["bash", "-c", command], cwd=self._folder, env=self._environment, stdout=subprocess.PIPE, text=True
        )

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


@pytest.fixture
def sessions(tmp_path: Path) -> list[list[tuple[str, str]]]:
    """The commands of the page and what each prints, session by session; the script is saved as it says."""
    script, _ = BLOCK.findall(README)  # the other one is run by test_first_page.py
    (tmp_path / "greet.py").write_text(script)
    return [TYPED.findall(session) for session in SESSION.findall(README)]


def test_one_command_serves_the_script(shell: Shell, sessions: list[list[tuple[str, str]]], tmp_path: Path) -> None:
    """The first command says what the page shows, its curl line works, and Ctrl-C ends it (RN1)."""
    ((command, printed),) = sessions[0]
    running = shell.start(f"exec {command} --port 0 --metrics-export-port 0 --console-port 0")
    assert running.stdout is not None
    try:
        said = [running.stdout.readline() for _ in printed.splitlines()]
        (port,) = re.findall(r"is at http://127\.0\.0\.1:(\d+)/$", said[0], re.MULTILINE)
        # Where nobody sees a terminal, the console's line has no token.
        console = next(place for place, line in enumerate(said) if line.startswith(" Console:  http://127.0.0.1:"))
        shown = printed.replace(f":{PORT}", f":{port}").splitlines(keepends=True)
        assert shown.pop(console).startswith(" Console:  http://127.0.0.1:8070/#token=")
        said.pop(console)
        assert said == shown
        line = said[1].partition("Try it:")[2].strip()
        assert shell(line).stdout == '{"text":"Hello, text!","by":"Greeter"}'
    finally:
        running.send_signal(signal.SIGINT)
    assert running.wait(COMMAND_TIMEOUT_S) == 0


def test_readme_from_there_to_the_bottom(shell: Shell, sessions: list[list[tuple[str, str]]], tmp_path: Path) -> None:
    """Whoever types the other commands sees what the page shows, and ends the instance (IN6, IN15, DP3, RN1).

    Only ports are changed here.
    """
    typed = [command for session in sessions[1:] for command in session]
    assert [command.split()[0] for command, _ in typed] == [*["pointsman"] * 3, "curl", *["pointsman"] * 5]
    port = PORT
    for command, printed in typed:
        if command == "pointsman stop":  # a changed script takes over while it serves, as is said below the commands
            script = tmp_path / "greet.py"
            script.write_text(script.read_text().replace('"Hello"', '"Welcome"'))
            assert shell("pointsman deploy greet.py --as greet --set rollout_watch_s=0").returncode == 0
            asked = shell(f"""curl --json '{{"name": "Ada"}}' http://127.0.0.1:{port}/greet""")
            assert asked.stdout == '{"text":"Welcome, Ada!","by":"greet"}'
        more = f" {FREE_PORTS}" if command.startswith("pointsman start") else ""
        ended = shell(command.replace(f":{PORT}", f":{port}") + more)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        if found := re.search(r"is ready at http://127\.0\.0\.1:(\d+)", ended.stdout):
            port = found[1]
        if printed:
            assert ended.stdout.rstrip("\n") == printed.replace(f":{PORT}", f":{port}").rstrip("\n"), command
    assert "no instance named 'default' is running" in shell("pointsman status").stderr


def test_readme_is_short() -> None:
    """It can be read in two minutes: at most 130 lines."""
    assert len(README.splitlines()) <= 130
