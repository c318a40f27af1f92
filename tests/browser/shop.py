"""What the browser's tests look at: an instance with a little of everything, and its console."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator

import httpx

import pointsman as serve
from tests.conftest import WAIT_S, family

SCRIPT = "<script>document.title='taken'</script>"
BACKWARDS = "\u05e9\u05dc\u05d5\u05dd 95% (\u05d0)"
LONG = "a" * 200
HOSTILE = (SCRIPT, BACKWARDS, LONG, "constructor", "..")
"""Names of endpoints that a page could trip over."""

HOLDERS = {"view": "viewer", "operate": "operator", "deploy": "deployer"}
"""Names of tokens by their roles."""

SPLIT = {"ranker-v1": 0.95, "ranker-v2": 0.05}


class Ranker:
    """A version of a model; a request can end its process."""

    def __init__(self, version: int) -> None:
        self.version = version

    def __call__(self, request: serve.Request) -> dict[str, int]:
        if request.query_params.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if request.query_params.get("fail"):
            raise LookupError("no such item: \x1b[31m<b>red</b>")
        return {"version": self.version}


class Shop:
    """The instance, its console, and calls that go on.

    Args:
        client: of the instance.
        url: of the console, without a slash at the end.
        tokens: by role.
    """

    def __init__(self, client: serve.Client, url: str, tokens: dict[str, str]) -> None:
        self.client = client
        self.url = url
        self.tokens = tokens

    def link(self, role: str = "operate") -> str:
        """A link that signs in."""
        return f"{self.url}/#token={self.tokens[role]}"

    def controller_pid(self) -> int:
        """The process that holds the state."""
        return next(pid for pid, process in family().items() if "pointsman.controller" in process.cmdline())

    def api(self, method: str, path: str, *, role: str = "operate", **request: object) -> httpx.Response:
        """A call of the console's API."""
        head = {"authorization": f"Bearer {self.tokens[role]}"}
        return httpx.request(method, f"{self.url}/api/v1{path}", headers=head, timeout=WAIT_S, **request)  # type: ignore[arg-type]


def furnish(client: serve.Client) -> None:
    """Two versions behind one endpoint, a shadow, and endpoints with hostile names."""
    client.create_backend("ranker-v1", Ranker, 1)
    client.create_endpoint("rank", backend="ranker-v1", route="/rank", methods=["GET", "POST"])
    client.create_backend("ranker-v2", Ranker, 2)
    client.create_backend("ranker-v3", Ranker, 3, config={"num_replicas": 1})
    client.set_traffic("rank", SPLIT)
    for name in HOSTILE:
        client.create_endpoint(name, backend="ranker-v1")


@contextlib.contextmanager
def calls(url: str, every_s: float = 0.02) -> Iterator[None]:
    """Requests to a URL, one after the other, until the end.

    Args:
        every_s: from an answer to the next request.
    """
    over = threading.Event()

    def call() -> None:
        with httpx.Client(timeout=WAIT_S) as http:
            for item in itertools.count():
                if over.wait(every_s):
                    return
                with contextlib.suppress(httpx.HTTPError):
                    http.get(url, params={"item": item})

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def opened(furnish: Callable[[serve.Client], None] = furnish) -> Iterator[Shop]:
    """The instance with its console, gone at the end.

    Args:
        furnish: makes what the instance serves.
    """
    client = serve.start(http_options={"port": 0}, metrics_export_port=0, console_port=0)
    try:
        furnish(client)
        url = client.console_address
        assert url is not None
        tokens = {role: client.create_token(name, role) for role, name in HOLDERS.items()}
        yield Shop(client, url.rstrip("/"), tokens)
    finally:
        client.shutdown()
