"""A cluster that grows and shrinks by itself: Ray's own autoscaler, with nodes that are processes of this machine.

``ray.cluster_utils.AutoscalingCluster`` is not used: it ends every Ray process of the machine, whosever it is, at its
start and its end, and its example of a configuration is not in Ray's wheels. What it does besides is done here.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import OBJECT_STORE_BYTES
from tests.cluster.test_access import without_token
from tests.conftest import WAIT_S
from tests.properties import PROFILE

pytestmark = pytest.mark.skipif(PROFILE == "gate", reason="waits for nodes, half a minute; make test-long runs it")

HEAD_ID = "f" * 51 + "00000"
IDLE_MINUTES = 0.1
EMPTY = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")

GROWS = """
import sys, time
import ray
import pointsman as serve

ray.init(sys.argv[1], logging_level="warning", log_to_driver=False)

def nodes():
    return sum(node["Alive"] for node in ray.nodes())

def wait(condition, what):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, f"{what}: {client.status()['backends']}, {nodes()} nodes"
        time.sleep(0.2)

options = {"engine": "ray", "http_options": {"location": None}, "metrics_export_port": None}
with serve.start(address=sys.argv[1], **options) as client:
    scaled = {"autoscaling": {"min_replicas": 1, "max_replicas": 3}}
    client.create_backend("m", lambda request: "served", config=scaled)
    running = lambda: client.status()["backends"]["m"]["replicas_running"]
    assert (nodes(), running()) == (1, 1)
    client.scale("m", 3)
    wait(lambda: running() == 3, "three replicas")
    print("grown:", nodes(), flush=True)
    client.scale("m", 1)
    wait(lambda: nodes() == 1, "an idle node is let go")
    print("shrunk:", running(), flush=True)
ray.shutdown()
"""


def configuration(address: str) -> dict[str, object]:
    """Of the cluster: a head with one CPU, and up to three nodes with two."""
    provider = {
        "type": "external",  # "fake_multinode" looks for that example
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address,
        "launch_multiple": True,
        "head_node_id": HEAD_ID,
    }
    worker = {"CPU": 2, "object_store_memory": OBJECT_STORE_BYTES}
    return {
        "cluster_name": "growing",
        "max_workers": 3,
        "provider": provider,
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": 3},
        },
        "head_node_type": "ray.head.default",
        "idle_timeout_minutes": IDLE_MINUTES,
        **{f"{when}_commands": [] for when in EMPTY},
        **{name: {} for name in ("auth", "file_mounts")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    }


@pytest.fixture
def growing_cluster() -> Iterator[tuple[str, str]]:
    """The address and the token of a cluster with an autoscaler, in processes of its own."""
    with socket.socket() as listening:  # the autoscaler has to be told the address before there is one
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    # The paths of Ray's sockets must be short.
    folder, token = Path(f"/tmp/pm-{secrets.token_hex(4)}"), secrets.token_hex(32)
    folder.mkdir(mode=0o700)
    (folder / "cluster.json").write_text(json.dumps(configuration(f"127.0.0.1:{port}")))
    given = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
    }
    options = {
        "autoscaling-config": folder / "cluster.json",
        "num-cpus": 1,
        "port": port,
        "node-ip-address": "127.0.0.1",
        "temp-dir": folder,
        "object-store-memory": OBJECT_STORE_BYTES,
        "include-dashboard": "false",
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    with (folder / "output").open("w") as output:
        head = subprocess.Popen(
            [Path(sys.executable).parent / "ray", "start", "--head", "--block"]
            + [f"--{name}={value}" for name, value in options.items()],
            env=without_token(**given),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield f"127.0.0.1:{port}", token
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(WAIT_S)
        finally:
            for process in processes_of(folder):
                os.kill(process, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[int]:
    """What is left of a cluster: its processes are the only ones that name its folder."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            found.append(process.info["pid"])
    return found


def test_a_cluster_grows_for_replicas_and_shrinks_again(growing_cluster: tuple[str, str]) -> None:
    """Three replicas are wanted of a backend where one fits: the cluster's autoscaler adds a node for the others, and
    takes it away once it is idle (AS15, RM3)."""
    address, token = growing_cluster
    done = subprocess.run(
        [sys.executable, "-c", GROWS, address],
        env=without_token(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "grown: 2" in done.stdout
    assert "shrunk: 1" in done.stdout
