"""The command that applies a file is killed in the middle of it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import WAIT_S, wait_until
from tests.process.test_cli import PROGRAM, detached, pointsman, status_of

assert detached  # a fixture

CODE = """\
import pathlib, time

class Gate:
    def __init__(self, path):
        while not pathlib.Path(path).exists():
            time.sleep(0.01)

    def __call__(self, request):
        return "served"
"""
FILE = """\
pointsman: 1
name: shop
backends: {gate: {code: gates:Gate, args: [open], config: {rollout_watch_s: 0}}}
endpoints: {gate: {backend: gate, route: /gate}}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "gates.py").write_text(CODE)
    file = tmp_path / "shop.yaml"
    file.write_text(FILE)
    return file


def test_the_command_is_killed(detached: str, shop: Path) -> None:
    """Killed or interrupted while a constructor runs, the command leaves the rest to the controller: another apply is
    refused until all is in force, and then there is nothing left to do (CF8)."""
    for how, gate in ((signal.SIGKILL, "open"), (signal.SIGINT, "open-2")):
        shop.write_text(FILE.replace("open", gate))
        applying = subprocess.Popen(
            [PROGRAM, "apply", str(shop), "--name", detached],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: status_of(detached)["backends"].get("gate", {}).get("state") == "UPDATING", what="an apply")
        applying.send_signal(how)
        _, said = applying.communicate(timeout=WAIT_S)
        if how is signal.SIGINT:
            assert (applying.returncode, "goes on without this command" in said) == (130, True)
        busy = pointsman("apply", str(shop), "--name", detached)
        assert busy.returncode == 4
        assert "'shop'" in busy.stderr
        (shop.parent / gate).touch()
        done = wait_until(
            lambda: [d for d in [pointsman("apply", str(shop), "--name", detached, "--json")] if not d.returncode],
            what="the rest of the apply",
        )
        assert json.loads(done[0].stdout)["unchanged"] == ["backend/gate", "endpoint/gate"]
