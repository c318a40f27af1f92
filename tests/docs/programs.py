"""Runs a program as a user would: a script of its own, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

PROGRAM_TIMEOUT_S = 200.0

ENGINE = os.environ.get("POINTSMAN_EXAMPLES_ENGINE", "local")
"""Where the examples run. `make conformance-ray` has them on a Ray cluster of their own each, which takes minutes."""

IMPORTS = """
import os

import pointsman as serve
"""

HANDLE_REQUEST = """
def handle_request(request):
    return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
"""

ANSWER = """
def answer_of(backend):
    client.create_endpoint(backend, backend=backend)
    return client.get_handle(backend).remote().result()
"""


def program(*parts: str, **start: object) -> str:
    """A script out of dedented parts, behind the imports and the start of an instance on a free port."""
    if ENGINE == "ray":  # a cluster of its own, with room: Ray does not let replicas share a CPU
        start = {"num_cpus": 16, **start, "engine": "ray", "address": "local"}
    arguments = "".join(f", {name}={value!r}" for name, value in start.items())
    client = f'client = serve.start(http_options={{"port": 0}}, metrics_export_port=0{arguments})'
    return "\n".join([IMPORTS, client, HANDLE_REQUEST, ANSWER, *map(dedent, parts)])


def run_program(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``text`` as a script and return how it ended. OMP_NUM_THREADS is not inherited, only given."""
    script = folder / "example.py"
    script.write_text(text)
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_S,
    )


def lines(*parts: str) -> str:
    """Dedented parts, one behind the other."""
    return "\n".join(map(dedent, parts))


def several(parts: dict[str, str]) -> str:
    """A part of a script: runs these, one after the other on one instance, each with names of its own, and takes down
    what it has made. What became of each is printed, by its name: its traceback, or nothing."""
    return dedent(
        f"""
        import json, traceback
        told = {{}}
        for name, part in {parts!r}.items():
            try:
                exec(part, dict(globals()))
                told[name] = ""
            except Exception:
                told[name] = traceback.format_exc()
            for endpoint in client.list_endpoints():
                client.delete_endpoint(endpoint)
            for tag in client.list_backends():
                client.delete_backend(tag, force=True)
        print(json.dumps(told))
        """
    )


def told_by(ended: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What a script of :func:`several` says at its end."""
    assert_succeeded(ended)
    told: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    return told


def assert_succeeded(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
