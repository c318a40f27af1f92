"""Who may come in: clusters that we start ask for a token, and clusters that let anybody in are refused."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import make_certificate, needs_openssl
from tests.cluster.conftest import LOOPBACK, OBJECT_STORE_BYTES
from tests.conftest import WAIT_S

# Everything here listens on the loopback interface, which needs no token; the scripts are told that it is another one.
ELSEWHERE = """
import sys
import pointsman as serve
from pointsman.engine.ray import cluster
from pointsman.exceptions import ServeException
cluster._is_loopback = lambda host: False
options = {"engine": "ray", "http_options": {"location": None}, "metrics_export_port": None}
"""
OPEN_CLUSTER = f"""
from ray.cluster_utils import Cluster
cluster = Cluster()
node = {{"node_ip_address": "{LOOPBACK}", "object_store_memory": {OBJECT_STORE_BYTES}, "include_dashboard": False}}
cluster.add_node(num_cpus=1, **node)
print("address:", cluster.address, flush=True)
input()
cluster.shutdown()
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


ENCRYPTED = f"""
import os, socket, ssl
import psutil, ray
from ray.cluster_utils import Cluster
import pointsman as serve

cluster = Cluster()
node = {{"node_ip_address": "{LOOPBACK}", "object_store_memory": {OBJECT_STORE_BYTES}, "include_dashboard": False}}
cluster.add_node(num_cpus=1, **node)
cluster.add_node(num_cpus=1, resources={{"there": 1}}, **node)
client = serve.start(
    engine="ray", address=cluster.address, http_options={{"location": None}}, metrics_export_port=None
)
there = {{"num_cpus": 0, "resources": {{"there": 1}}}}
client.deploy("m", lambda request: __import__("os").getpid(), ray_actor_options=there)
pid = client.get_handle("m").remote().result()
names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
certificate, key, authority = (os.environ[name] for name in names)
context = ssl.create_default_context(cafile=authority)
context.load_cert_chain(certificate, key)
listening = [c for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
ports = {{c.laddr.port for c in listening}}
assert ports
for port in ports:
    with socket.create_connection(("{LOOPBACK}", port), 5) as plain:
        try:
            plain.sendall(b"hello" * 100)
            assert plain.recv(1) in (b"", b"\\x15")  # the end, or an alert of TLS
        except ConnectionError:
            pass
    with socket.create_connection(("{LOOPBACK}", port), 5) as plain:
        assert context.wrap_socket(plain, server_hostname="{LOOPBACK}").version().startswith("TLS")
print("encrypted:", len(ports))
client.shutdown()
ray.shutdown()
cluster.shutdown()
"""


def without_token(**variables: str) -> dict[str, str]:
    """This process's environment, whatever Ray has been told in it so far."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}, **variables}


def run(script: str, *args: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        env=without_token(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def open_cluster() -> Iterator[str]:
    """The address of a cluster that asks for no token, in processes of its own: a process that has once asked for
    tokens cannot start one."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN_CLUSTER],
        env=without_token(RAY_AUTH_MODE="disabled"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = next(line.partition(": ")[2].strip() for line in process.stdout if line.startswith("address:"))
    yield address
    process.communicate("\n", timeout=WAIT_S)


def test_a_cluster_without_token_is_refused(open_cluster: str) -> None:
    """A cluster that others reach and that asks for no token is joined only when one says so (S5)."""
    output = run(JOINS, open_cluster, RAY_AUTH_MODE="disabled")
    assert "refused: the Ray cluster at" in output
    assert "RAY_AUTH_MODE=token" in output
    assert "allowed: {}" in output


@needs_openssl
def test_a_cluster_with_tls(tmp_path: Path) -> None:
    """In a cluster with RAY_USE_TLS=1 a call reaches a replica on another node by TLS, and all that this replica
    listens at turns plaintext away (S6)."""
    output = run(ENCRYPTED, **make_certificate(tmp_path, host=LOOPBACK))
    assert "encrypted: " in output


def test_our_own_cluster_asks_for_the_token() -> None:
    """A cluster that start() makes turns those without the token away, and tells nobody the token (S5)."""
    token = secrets.token_hex(32)
    output = run(STARTS, RAY_AUTH_TOKEN=token)
    assert "served" in output
    assert token not in output
