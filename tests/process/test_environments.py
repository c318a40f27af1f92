"""Environments of backends over the life of an instance: replicas that die, restarts, callers from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

import pointsman as serve
from pointsman.usercode.paths import PACKAGE_PARTS
from tests.conftest import WAIT_S
from tests.elsewhere import versions
from tests.environments import Environments, other_python

OLD = "semver==2.13.0"
CALLER = """
import sys

import pointsman as serve


def where(request):
    return [sys.executable, sys.prefix, sys.version_info[1]]


client = serve.connect({name!r})
client.create_backend("theirs", where)
client.create_endpoint("theirs", backend="theirs")
print(*client.get_handle("theirs").remote().result(), sep="\\n")
"""


def test_a_whole_restart(environments: Environments, tmp_path: Path, name: str) -> None:
    """A detached instance with stored state comes back with its backends in their environments (IN10, DM5)."""
    prefix, state = environments.get(OLD), tmp_path / "state"
    ports = {"http_options": {"port": 0}, "metrics_export_port": 0}
    options = {"detached": True, "name": name, "state_dir": state, **ports}
    client = serve.start(**options)  # type: ignore[arg-type]
    client.create_backend("b", versions, env=serve.VirtualEnv(prefix))
    client.create_endpoint("b", backend="b")
    supervisor = psutil.Process(psutil.Process(client.status()["controller_pid"]).ppid())
    supervisor.terminate()
    supervisor.wait(WAIT_S)
    client = serve.start(**options)  # type: ignore[arg-type]
    assert client.get_handle("b").remote().result()[3] == str(prefix)
    client.shutdown()


def test_caller_of_another_python(environments: Environments, tmp_path: Path, name: str) -> None:
    """A backend runs in the environment of whoever creates it, not in that of whoever started the instance (DM3)."""
    prefix = environments.get("pydantic>=2.6", python=other_python())
    for part in PACKAGE_PARTS:  # alone: beside an installed one lie packages for this Python
        (tmp_path / os.path.basename(part)).symlink_to(part)
    serve.start(detached=True, name=name, http_options={"port": 0}, metrics_export_port=0)
    try:
        done = subprocess.run(
            [str(prefix / "bin" / "python"), "-c", CALLER.format(name=name)],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, done.stderr
        executable, its_prefix, minor = done.stdout.splitlines()
        assert (executable, its_prefix) == (str(prefix / "bin" / "python"), str(prefix))
        assert int(minor) != sys.version_info[1]
    finally:
        serve.connect(name).shutdown()
