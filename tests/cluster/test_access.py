"""Who may come in: clusters that we start ask for a token, and clusters that let anybody in are refused."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

from tests.cluster.conftest import Nodes

# Everything here listens on the loopback interface, which needs no token; the scripts are told that it is another one.
ELSEWHERE = """
import sys
import pointsman as serve
from pointsman.engine.ray import cluster
from pointsman.exceptions import ServeException
cluster._is_loopback = lambda host: False
options = {"engine": "ray", "http_options": {"location": None}, "metrics_export_port": None}
"""
JOINS = (
    ELSEWHERE
    + """
try:
    serve.start(address=sys.argv[1], **options)
except ServeException as error:
    print("refused:", error)
with serve.start(address=sys.argv[1], allow_insecure_cluster=True, **options) as client:
    print("allowed:", client.status()["backends"])
"""
)
STARTS = (
    ELSEWHERE
    + """
with serve.start(address="local", num_cpus=1, **options) as client:
    cluster._refuse_open_cluster()
    client.deploy("m", lambda request: "served", ray_actor_options={"num_cpus": 0})
    print(client.get_handle("m").remote().result())
"""
)


def run(script: str, *args: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_cluster_without_token_is_refused(nodes: Nodes) -> None:
    """A cluster that others reach and that asks for no token is joined only when one says so (S5)."""
    output = run(JOINS, nodes.address, RAY_AUTH_MODE="disabled")
    assert "refused: the Ray cluster at" in output
    assert "RAY_AUTH_MODE=token" in output
    assert "allowed: {}" in output


def test_our_own_cluster_asks_for_the_token() -> None:
    """A cluster that start() makes turns those without the token away, and tells nobody the token (S5)."""
    token = secrets.token_hex(32)
    output = run(STARTS, RAY_AUTH_TOKEN=token)
    assert "served" in output
    assert token not in output
