"""An instance on a port that others can reach: keys, TLS, files that are renewed, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import requests

import pointsman as serve
from pointsman.client.client import DRIVER_EXIT_TIMEOUT_S
from tests.certificates import VARIABLES, make_certificate, needs_openssl
from tests.conftest import family, wait_until
from tests.process.test_cli import ONLY_HTTP, pointsman

LOOPBACK = "127.0.0.1"
ANN, BOB, EVE = "anns-long-secret", "bobs-long-secret", "eves-long-secret"


class Mirror:
    """Shows what user code gets."""

    def __call__(self, request: Any) -> dict[str, Any]:
        return {"url": str(request.url), "headers": dict(request.headers), "client": request.client.host}


class Files:
    """A certificate, its key, and the keys of clients."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        made = make_certificate(folder / "first", host=LOOPBACK)
        self.cert, self.key = Path(made[VARIABLES[0]]), Path(made[VARIABLES[1]])
        self.keys = folder / "keys.json"
        self.write_keys({"ann": {"key": ANN}, "bob": {"key": BOB, "rate": 40, "burst": 1}})

    def write_keys(self, keys: Any) -> None:
        """Replace the file, as a careful program does."""
        fresh = self._folder / "fresh"
        fresh.touch(0o600)
        fresh.write_text(keys if isinstance(keys, str) else json.dumps(keys))
        fresh.replace(self.keys)

    def renew(self) -> None:
        """Another certificate in the same place."""
        made = make_certificate(self._folder / "next", host=LOOPBACK)
        os.replace(made[VARIABLES[1]], self.key)
        os.replace(made[VARIABLES[0]], self.cert)

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.cert))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def client(files: Files) -> Iterator[serve.Client]:
    """An instance of two HTTP servers with all locks."""
    client = serve.start(
        http_options={
            "port": 0,
            "processes": 2,
            "tls": {"cert": files.cert, "key": files.key},
            "allowed_hosts": [LOOPBACK],
        },
        api_keys=files.keys,
        metrics_export_port=0,
    )
    client.deploy("mirror", Mirror, route="/mirror", methods=["GET", "POST"])
    yield client
    client.shutdown()
    assert not family(), "processes were left behind"


@contextlib.contextmanager
def http(client: serve.Client, files: Files, key: str = "") -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=str(client.http_address), verify=files.trust(), headers=headers, timeout=30) as made:
        yield made


@needs_openssl
def test_clients_as_they_are(client: serve.Client, files: Files) -> None:
    """httpx, requests and curl use HTTPS and a key; user code sees https and the key's name (ED1, ED2, ED3)."""
    url = f"{client.http_address}/mirror"
    assert url.startswith("https://")
    answer = requests.get(url, headers={"X-API-Key": ANN}, verify=str(files.cert), timeout=30)
    assert answer.status_code == 200
    assert answer.json()["url"] == url
    assert answer.json()["headers"]["x-serve-key-name"] == "ann"
    assert ANN not in answer.text
    with http(client, files, ANN) as ours:
        assert ours.post("/mirror", content=b"x" * 200_000).status_code == 200
        assert ours.get("/mirror", headers={"host": "evil"}).status_code == 400
    with http(client, files) as stranger:
        assert stranger.get("/mirror").status_code == 401
        assert stranger.get("/-/routes").status_code == 401
        assert stranger.get("/-/healthz").status_code == 200
    if shutil.which("curl"):
        command = ["curl", "-sS", "--cacert", str(files.cert), "-H", f"Authorization: Bearer {ANN}", url]
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
        assert json.loads(done.stdout)["url"] == url


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@needs_openssl
def test_plain_http_and_old_versions_get_nothing(client: serve.Client, files: Files) -> None:
    """Whoever speaks plain HTTP, or TLS before 1.2, is not served; those who do are, meanwhile (ED1)."""
    port = httpx.URL(str(client.http_address)).port
    with socket.create_connection((LOOPBACK, port), timeout=30) as plain:
        plain.sendall(b"GET /-/healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"200" not in plain.recv(100)
    old = files.trust()
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection((LOOPBACK, port), timeout=30) as raw, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(raw, server_hostname=LOOPBACK)
    with http(client, files) as stranger:
        assert stranger.get("/-/healthz").status_code == 200


@needs_openssl
def test_a_rate_is_that_of_the_node(client: serve.Client, files: Files) -> None:
    """A key is let in as often as its rate says, by two HTTP servers together, within a tenth (ED4)."""
    let_in: list[float] = []

    def ask() -> None:
        with http(client, files, BOB) as bob:
            while time.monotonic() < end:
                answer = bob.get("/mirror")
                assert answer.status_code in (200, 429)
                if answer.status_code == 200:
                    let_in.append(time.monotonic())

    end = time.monotonic() + 4.0
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Never more, however busy the machine is; not less, where these clients have the processor at all.
    seconds = let_in[-1] - let_in[0]
    assert len(let_in) <= 1.1 * 40 * seconds + 3
    assert len(let_in) >= 40


@needs_openssl
def test_keys_are_read_again(client: serve.Client, files: Files) -> None:
    """A changed file of keys counts within seconds; one that is wrong changes nothing (ED2)."""
    with http(client, files, EVE) as eve, http(client, files, ANN) as ann:
        assert eve.get("/mirror").status_code == 401
        files.write_keys({"ann": {"key": ANN}, "eve": {"key": EVE}})
        began = time.monotonic()
        wait_until(lambda: all(eve.get("/mirror").status_code == 200 for _ in range(8)))
        assert time.monotonic() - began < 20, "2 s are promised, of a machine that is not busy"
        files.write_keys('{"ann": {"key": "half a fi')
        logged = wait_until(lambda: warnings_of(client), what="the warning")
        assert "half a fi" not in logged
        assert [who.get("/mirror").status_code for who in (eve, ann)] == [200, 200]
        files.write_keys({"ann": {"key": ANN}, "bob": {"key": BOB, "rate": 40, "burst": 1}})
        wait_until(lambda: eve.get("/mirror").status_code == 401)


def warnings_of(client: serve.Client) -> str:
    lines = [line for line in logs_of(client).splitlines() if "API keys cannot be used" in line]
    return "\n".join(lines)


def logs_of(client: serve.Client) -> str:
    from pointsman.engine.instances import log_folders

    assert client._address is not None
    texts = [
        path.read_text(errors="replace")
        for folder in log_folders(client._address.control_path).values()
        for path in folder.rglob("*")
        if path.is_file()
    ]
    return "\n".join(texts)


@needs_openssl
def test_certificates_are_renewed(client: serve.Client, files: Files) -> None:
    """A new certificate serves new connections within seconds, and those that are open go on; a bad one is not used
    (ED1)."""
    with http(client, files, ANN) as open_before:
        assert open_before.get("/mirror").status_code == 200
        files.renew()

        def served_anew() -> bool:
            try:
                with http(client, files) as fresh:
                    return fresh.get("/-/healthz").status_code == 200
            except httpx.ConnectError:
                return False

        began = time.monotonic()
        wait_until(lambda: all(served_anew() for _ in range(8)))
        assert time.monotonic() - began < 20, "5 s are promised, of a machine that is not busy"
        assert open_before.get("/mirror").status_code == 200
        trust = files.trust()
        good = files.cert.read_bytes()
        files.cert.write_text("no certificate")
        wait_until(lambda: "certificates cannot be used" in logs_of(client))
        with httpx.Client(base_url=str(client.http_address), verify=trust) as fresh:
            assert fresh.get("/-/healthz").status_code == 200
        files.cert.write_bytes(good)
        assert open_before.get("/mirror").status_code == 200
        # Of several processes one may have missed the new one, before the bad one came; the next test finds none such.
        wait_until(lambda: all(served_anew() for _ in range(40)))


def test_no_key_is_left_anywhere(client: serve.Client, private_runtime_folder: Path, files: Files) -> None:
    """The status says that there is a lock; no key is in it, in logs, in files of ours or on a command line (ED3)."""
    assert client.status()["http"] | {"ingresses": 0} == {
        "address": client.http_address,
        "locked": True,
        "tls": True,
        "ingresses": 0,
    }
    with http(client, files, ANN) as ann:
        assert ann.get("/no-such", params={"x": "y"}).status_code == 404
    texts = [str(client.status()), repr(client), logs_of(client)]
    texts += [str(process.cmdline()) + str(process.environ()) for process in family().values()]
    for path in private_runtime_folder.rglob("*"):
        if path.is_file():
            texts.append(path.read_bytes().decode("latin-1"))
    for key in (ANN, BOB):
        assert not [text for text in texts if key in text]


@needs_openssl
def test_an_idle_client_delays_no_end(files: Files) -> None:
    """An instance with TLS ends though a client that does nothing keeps its connection (ED1)."""
    options = {"port": 0, "tls": {"cert": files.cert, "key": files.key, "client_ca": files.cert}}
    client = serve.start(http_options=options, metrics_export_port=0)
    with http(client, files) as nobody, pytest.raises(httpx.HTTPError):  # shows no certificate
        nobody.get("/-/healthz")
    trust = files.trust()
    trust.load_cert_chain(files.cert, files.key)
    with httpx.Client(base_url=str(client.http_address), verify=trust) as idle:
        assert idle.get("/-/healthz").status_code == 200
        pid = client.status()["http"]["ingresses"][0]["pid"]
        began = time.monotonic()
        client.shutdown()
        assert not psutil.pid_exists(pid)
        assert time.monotonic() - began < 15, "its drain limit is 20 s"
    assert DRIVER_EXIT_TIMEOUT_S < 15


@pytest.mark.parametrize(
    ("host", "options", "keys", "warns"),
    [
        ("0.0.0.0", {}, None, True),
        ("0.0.0.0", {"insecure": True}, None, False),
        ("0.0.0.0", {}, [("ann", ANN)], False),
        (LOOPBACK, {}, None, False),
    ],
)
def test_a_port_that_is_open_to_all(
    host: str, options: dict[str, Any], keys: list[tuple[str, str]] | None, warns: bool, caplog: Any
) -> None:
    """Whoever opens a port to others without a key is told so, once (ED2)."""
    with caplog.at_level(logging.WARNING):
        api_keys = None if keys is None else [serve.ApiKey(*key) for key in keys]
        with serve.start(
            http_options={"host": host, "port": 0, **options}, api_keys=api_keys, metrics_export_port=None
        ) as client:
            assert client.status()["http"]["locked"] is bool(keys)
    assert len([record for record in caplog.records if "asks nobody" in record.getMessage()]) == int(warns)


def test_nothing_is_started_with_what_is_wrong(tmp_path: Path) -> None:
    """Wrong keys or certificates are an error of the call, and there is no process (ED1, ED2)."""
    before = set(family())
    open_file = tmp_path / "keys.json"
    open_file.write_text(json.dumps({"ann": {"key": ANN}}))
    open_file.chmod(0o644)
    for wrong in (
        {"api_keys": []},
        {"api_keys": ""},
        {"api_keys": [None]},
        {"api_keys": open_file},
        {"api_keys": str(tmp_path / "no-such")},
        {"api_keys": [serve.ApiKey(f"name{i}", f"key{i}") for i in range(1000)]},
        {"http_options": {"port": 0, "tls": {"cert": "/no/such", "key": "/no/such"}}},
        {"http_options": {"host": None}, "api_keys": [serve.ApiKey("ann", ANN)]},
    ):
        with pytest.raises(ValueError) as caught:
            serve.start(**wrong)  # type: ignore[arg-type]
        assert ANN not in str(caught.value)
    assert set(family()) <= before


def test_keys_by_the_command_line(tmp_path: Path, name: str) -> None:
    """``pointsman start --api-keys FILE`` asks for keys, and the line that starts it again does so too (ED2, ED3)."""
    keys, state = tmp_path / "keys.json", tmp_path / "state"
    keys.touch(0o600)
    keys.write_text(json.dumps({"ann": {"key": ANN}}))
    options = ["--name", name, "--http-port", "0", *ONLY_HTTP, "--state-dir", str(state)]
    started = pointsman("start", "--detached", *options, "--api-keys", str(keys))
    assert started.returncode == 0, started.stderr
    try:
        client = serve.connect(name)
        client.deploy("mirror", Mirror, route="/mirror")
        url = f"{client.http_address}/mirror"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"x-api-key": ANN}).json()["headers"]["x-serve-key-name"] == "ann"
    finally:
        stopped = pointsman("stop", "--name", name)
    assert f"--api-keys {keys}" in stopped.stdout
    assert not [path for path in state.rglob("*") if path.is_file() and ANN.encode() in path.read_bytes()]


@needs_openssl
def test_a_cluster_asks_the_same(files: Files) -> None:
    """HTTP servers of the Ray engine have keys, rates of the node, and TLS as well (ED1, ED2, ED4)."""
    pytest.importorskip("ray", reason="ray is not installed")
    client = serve.start(
        engine="ray",
        address="local",
        num_cpus=8,
        http_options={"port": 0, "processes": 2, "tls": {"cert": files.cert, "key": files.key}},
        api_keys=[serve.ApiKey("ann", ANN), serve.ApiKey("bob", BOB, rate=0.01, burst=3)],
        metrics_export_port=None,
    )
    try:
        client.deploy("mirror", Mirror, route="/mirror")
        assert (client.status()["http"]["locked"], client.status()["http"]["tls"]) == (True, True)
        with http(client, files, ANN) as ann, http(client, files) as stranger:
            shown = ann.get("/mirror").json()
            assert shown["url"] == f"{client.http_address}/mirror"
            assert shown["headers"]["x-serve-key-name"] == "ann"
            assert stranger.get("/mirror").status_code == 401
        statuses = []
        for _ in range(12):  # connections of their own, which fall to both servers
            with http(client, files, BOB) as bob:
                statuses.append(bob.get("/mirror").status_code)
        assert statuses.count(200) == 3
        assert statuses.count(429) == 9
    finally:
        client.shutdown()
