"""Behind a real nginx and a real haproxy: what user code sees is what the proxy has passed on, request by request."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

import pointsman as serve
from tests.conftest import WAIT_S, start_client, wait_until
from tests.corpus import CASES, Case, cuts

UNPACKED = Path(sys.prefix) / "proxies"
"""By `make proxies`."""
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", str(UNPACKED / "usr" / "sbin")])
LIBRARIES = os.pathsep.join(str(folder) for folder in sorted(UNPACKED.glob("usr/lib/*-linux-gnu*")))
ENV = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join([LIBRARIES, os.environ.get("LD_LIBRARY_PATH", "")])}
IMPATIENT_S = 1
"""How long the proxies wait for what a malformed request lacks."""
AT_ONCE = 96

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  client_header_timeout {impatient}s; client_body_timeout {impatient}s; keepalive_timeout {impatient}s;
  log_format passed '$request_method $request_uri $upstream_status';
  access_log {folder}/passed passed;
  upstream us {{ server {address}; keepalive 4; }}
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  server {{
    listen unix:{folder}/socket;
    location / {{
      proxy_pass http://us; proxy_http_version 1.1; {headers} {buffering}
    }}
  }}
}}
"""
OFFERS = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"
"""As every guide to WebSockets has it."""
KEEPS = 'proxy_set_header Connection "";'
STREAMS = "proxy_request_buffering off; proxy_buffering off;"

HAPROXY = """
global
  maxconn 512
  log stdout format raw local0
defaults
  mode http
  log global
  log-format "%HM %HP %s"
  timeout connect 30s
  timeout server 30s
  timeout client {impatient}s
  timeout http-request {impatient}s
  timeout http-keep-alive {impatient}s
  http-reuse always
frontend front
  bind unix@{folder}/socket
  default_backend us
backend us
  server us {address}
"""


class Proxy(NamedTuple):
    socket: Path
    log: Path
    """A line for each request: method, target, and what came of it."""
    refused: re.Pattern[str]
    """What that is where the request was not passed on."""

    def passed_on(self) -> Counter[tuple[str, str]]:
        requests: Counter[tuple[str, str]] = Counter()
        for line in self.log.read_text(errors="replace").splitlines():
            method, target, outcome = (*line.split(" ", 2), "", "")[:3]
            if outcome and not self.refused.fullmatch(outcome):
                requests[method, target] += 1
        return requests


class Witness:
    """Sees requests, and tells which."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []

    def __call__(self, request: serve.Request) -> str:
        self.requests.append((request.method, request.url.path, request.body()))
        return "seen"

    def seen(self, request: object) -> list[tuple[str, str, bytes]]:
        return self.requests


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    with start_client(metrics_export_port=None) as client:
        yield client


@pytest.fixture
def witness(client: serve.Client, name: str) -> Iterator[Callable[[], list[tuple[str, str, bytes]]]]:
    """A backend behind every route; tells what it has seen."""
    client.create_backend(name, Witness)
    client.create_endpoint(name, backend=name, route="/{path:path}", methods=["GET", "POST", "CONNECT"])
    handle = client.get_handle(name).options(method_name="seen")
    yield lambda: handle.remote().result(timeout=WAIT_S)
    client.delete_endpoint(name)
    client.delete_backend(name)


@pytest.fixture(params=["nginx", "nginx for WebSockets", "nginx without buffers", "haproxy"])
def proxy(request: pytest.FixtureRequest, client: serve.Client) -> Iterator[Proxy]:
    """A proxy in front of the instance, on a socket of its own."""
    kind = request.param.split()[0]
    program = shutil.which(kind, path=PATH)
    if program is None:
        pytest.skip(f"{kind} is not there (Debian: make proxies)")
    if subprocess.run([program, "-v"], env=ENV, capture_output=True, check=False).returncode:
        pytest.skip(f"{program} cannot run: a library is missing")
    assert client.http_address is not None
    with tempfile.TemporaryDirectory(prefix="px", dir="/tmp") as name:
        folder = Path(name)
        values = {"folder": folder, "impatient": IMPATIENT_S, "address": urlsplit(client.http_address).netloc}
        if kind == "nginx":
            text = NGINX.format(
                **values,
                headers=OFFERS if "WebSockets" in request.param else KEEPS,
                buffering=STREAMS if "without" in request.param else "",
            )
            command = [program, "-p", name, "-e", "stderr", "-c", f"{name}/config"]
            proxy = Proxy(folder / "socket", folder / "passed", re.compile("-"))
        else:
            text = HAPROXY.format(**values)
            command = [program, "-db", "-f", f"{name}/config"]
            proxy = Proxy(folder / "socket", folder / "output", re.compile("<NOSRV>|-"))
        (folder / "config").write_text(text)
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(command, env=ENV, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            wait_until(lambda: proxy.socket.exists() or process.poll() is not None, what="the proxy listens")
            assert process.poll() is None, (folder / "output").read_text()
            yield proxy
        finally:
            process.kill()
            process.wait()


class Sent(NamedTuple):
    case: Case
    pieces: list[bytes]
    """Its bytes, under names of its own."""


def everything() -> list[Sent]:
    """Each case in each cut."""
    sent: list[Sent] = []
    for case in CASES:
        for cut in range(6):
            number = len(sent)
            data = case.data.replace(b" /first ", b" /first%d " % number).replace(b" /last ", b" /last%d " % number)
            sent.append(Sent(case, list(cuts(data, seed=number))[cut]))
    return sent


async def tell(proxy: Proxy, sent: Sent) -> bytes:
    """Send what a client sends, and read until all answers are there or the connection ends."""
    reader, writer = await asyncio.open_unix_connection(proxy.socket)
    answers = b""
    try:
        for piece in sent.pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        while more := await asyncio.wait_for(reader.read(65536), WAIT_S):
            answers += more
            if sent.case.served is not None and answers.count(b"HTTP/1.1 200") == len(sent.case.served):
                break
    except ConnectionError:
        pass  # closed while there was something to send: it has refused that
    finally:
        writer.close()
    return answers


async def tell_all(proxy: Proxy, streams: list[Sent]) -> list[bytes]:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(sent: Sent) -> bytes:
        async with room:
            return await tell(proxy, sent)

    return await asyncio.gather(*map(one, streams))


def test_user_code_sees_what_the_proxy_has_passed_on(
    proxy: Proxy, witness: Callable[[], list[tuple[str, str, bytes]]]
) -> None:
    """Requests with bodies that look like requests, in many cuts, through a proxy that keeps connections to us: user
    code sees no request that the proxy has not passed on, each has its own body, nothing hangs, and the proxy's
    connections go on to serve others (F28)."""
    streams = everything()
    answers = asyncio.run(tell_all(proxy, streams))
    seen = witness()
    called = Counter((method, path) for method, path, _ in seen)
    # The proxy writes a line once all of an answer has left.
    wait_until(lambda: not called - proxy.passed_on(), what="the proxy has passed on all that was called")
    bodies: dict[int, list[bytes]] = {}
    for _, path, body in seen:
        if match := re.fullmatch(r"/(?:first|last)(\d+)", path):
            bodies.setdefault(int(match[1]), []).append(body)
    served = 0
    for number, (case, _) in enumerate(streams):
        got = bodies.get(number, [])
        if case.served is not None:
            assert got == list(case.served[: len(got)]), (case.name, answers[number])
            served += len(got) == len(case.served)
    assert served > len(streams) / 6
