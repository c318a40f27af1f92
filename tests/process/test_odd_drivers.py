"""Drivers in odd circumstances: closed standard streams, warnings as errors, a working directory that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import WAIT_S
from tests.process.test_cli import FREE_PORTS, PROGRAM, assert_one_line, pointsman

USES_ALL = """
import json, os, sys, urllib.request
import pointsman as serve

client = serve.start(http_options={"port": 0}, metrics_export_port=0)

class Model:
    async def __call__(self, request):
        print("told")
        return "served"

client.deploy("m", Model, route="/m")
answers = [client.get_handle("m").remote().result(), urllib.request.urlopen(client.http_address + "/m").read().decode()]
urllib.request.urlopen(client.metrics_address + "/metrics").read()
with open(sys.argv[1], "w") as report:
    descriptors = {number: os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)}
    json.dump({"answers": answers, "descriptors": descriptors}, report)
client.shutdown()
"""


def run_closing(closed: str, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a shell that closes some of its standard streams."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command], capture_output=True, text=True, timeout=WAIT_S, check=False
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(closed: str, tmp_path: Path) -> None:
    """I start a script from a service manager or cron job that leaves standard input, output or error closed: it works,
    and none of the three numbers belongs to a socket or pipe of ours (IN1)."""
    done = run_closing(closed, USES_ALL, tmp_path / "report")
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "report").read_text()
    assert '"answers": ["served", "served"]' in report
    for number, stream in enumerate(("<&-", ">&-", "2>&-")):
        if stream in closed.split():
            assert f'"{number}": "/dev/null"' in report


def test_what_replicas_print_goes_into_no_file_of_mine(tmp_path: Path) -> None:
    """My script has its standard error closed, and then opens a file, which gets that number: nothing that replicas
    print ends up in it."""
    script = f"own = open({str(tmp_path / 'own')!r}, 'w'); assert own.fileno() == 2\n" + USES_ALL
    assert run_closing("2>&-", script, tmp_path / "report").returncode == 0
    assert (tmp_path / "own").read_text() == ""


def test_the_command_line_without_streams(name: str) -> None:
    """Commands work without an open stream, too, and their exit code tells how they went (IN15)."""
    start = [PROGRAM, "start", "--detached", "--name", name, *FREE_PORTS]
    commands = [(start, 0), ([PROGRAM, "status", "--name", name], 0), ([PROGRAM, "list"], 0)]
    for command, code in [*commands, ([PROGRAM, "shutdown", "--name", name], 0), ([PROGRAM, "status"], 1)]:
        closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
        assert subprocess.run(closed, timeout=WAIT_S, check=False).returncode == code, command


LEAVES_THINGS_OPEN = """
import asyncio, sys
import pointsman as serve

client = serve.start(detached=sys.argv[1] == "detached", name="warned", http_options={"port": 0}, metrics_export_port=0)

class Untidy:
    async def __call__(self, request):
        self.server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        return "served"

client.deploy("m", Untidy)
print(client.get_handle("m").remote().result())
if sys.argv[1] == "detached":
    client = None
else:
    client.shutdown()
"""


@pytest.mark.parametrize("variables", [{"PYTHONWARNINGS": "error"}, {"PYTHONDEVMODE": "1"}])
def test_warnings_as_errors(variables: Mapping[str, str], tmp_path: Path) -> None:
    """With warnings as errors, as test suites set them, a script ends at once and nothing complains: whatever we open
    in a process is closed before it ends."""
    done = subprocess.run(
        [sys.executable, "-c", USES_ALL, str(tmp_path / "report")],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    complaints = [word for word in ("Warning", "unclosed", "Traceback", "ignored", "blocked") if word in done.stderr]
    assert (done.returncode, complaints) == (0, []), done.stderr  # asyncio's debug mode has other news


@pytest.mark.parametrize("kind", ["bound", "detached"])
def test_warnings_about_what_user_code_leaves_open(kind: str) -> None:
    """A replica whose user code has left a server open ends all the same with warnings as errors, and is not waited for
    until it is killed; a script that leaves a detached instance running is not warned of that."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LEAVES_THINGS_OPEN, kind],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "served\n"), done.stderr
    assert "blocked" not in done.stderr
    if kind == "detached":
        assert done.stderr == ""
        assert pointsman("shutdown", "--name", "warned").returncode == 0


def in_removed_folder(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    gone = ["sh", "-c", 'cd "$1" && rmdir "$1" && shift && exec "$@"', "sh", str(folder), *command]
    return subprocess.run(gone, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_a_working_directory_that_is_gone(tmp_path: Path, name: str) -> None:
    """The folder in which I started my shell was removed by a deployment: my script works in / and I am told once; what
    I have named relative to that folder is refused in one sentence."""
    script = f"import os\n{USES_ALL}\n"
    done = in_removed_folder(sys.executable, "-c", script, str(tmp_path / "report"), folder=tmp_path / "gone")
    assert done.returncode == 0, done.stderr
    assert '["served", "served"]' in (tmp_path / "report").read_text()
    assert done.stderr.count("the working directory of this process was removed; user code works in / instead") == 1
    start = [PROGRAM, "start", "--detached", "--name", name, *FREE_PORTS]
    assert_one_line(in_removed_folder(*start, "--state-dir", "x", folder=tmp_path / "gone"), "'x' is relative")
    assert in_removed_folder(*start, folder=tmp_path / "gone").returncode == 0
    assert pointsman("shutdown", "--name", name).returncode == 0
