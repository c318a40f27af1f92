"""The console of an instance: a process of its own, which comes back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

import pointsman as serve
from tests.conftest import WAIT_S, family, wait_until


@pytest.fixture
def page(client: serve.Client) -> Iterator[httpx.Client]:
    """The console, as the link of a viewer opens it."""
    base, _, token = client.console_link("view").partition("/#token=")
    with httpx.Client(base_url=base, headers={"authorization": f"Bearer {token}"}, timeout=WAIT_S) as page:
        wait_until(lambda: answers(page), what="the console answers")
        yield page


def answers(page: httpx.Client) -> bool:
    try:
        return page.get("/api/v1/me").status_code == 200
    except httpx.TransportError:
        return False


def console_process() -> psutil.Process:
    """That of the instance, which this process has started."""

    def found() -> list[psutil.Process]:
        return [one for one in psutil.Process().children(recursive=True) if is_console(one)]

    wait_until(lambda: len(found()) == 1, what="one console")
    return found()[0]


def is_console(process: psutil.Process) -> bool:
    try:
        return "pointsman.console" in process.cmdline() or "ConsoleHost" in process.name()
    except psutil.Error:
        return False


def hello(request):
    return "hello"


def test_the_instance_says_where_its_console_is(client: serve.Client, page: httpx.Client) -> None:
    """`status()` and `client.console_address` have the page's address, and a link of mine signs in there, for as long
    as a day's work and for what I have said (AD2, CR5)."""
    assert client.status()["console"] == client.console_address == str(page.base_url).rstrip("/")
    me = page.get("/api/v1/me").json()
    assert me["role"] == "view"
    assert me["name"] in client.list_tokens()
    assert me["expires"] is not None
    assert page.get("/api/v1/status").json()["console"] == client.console_address


def test_a_console_that_is_killed_comes_back(
    client: serve.Client, page: httpx.Client, served: Callable[..., str], http: httpx.Client
) -> None:
    """Something kills the console: requests notice nothing, and the same link works again (AD1)."""
    route = served(hello)
    process = console_process()
    assert max(thread_niceness(process)) == 19  # requests go first
    process.kill()
    process.wait(WAIT_S)
    assert http.get(route).text == "hello"
    wait_until(lambda: answers(page), what="the console is back")
    assert console_process().pid != process.pid
    assert http.get(route).text == "hello"


def test_the_page_follows_changes_and_calls(
    client: serve.Client, page: httpx.Client, served: Callable[..., str], http: httpx.Client
) -> None:
    """The stream has the state first, and again when something changes; each second the numbers of all calls, which
    graphs remember; errors of a backend have their traceback (AD5, AD8, CR1)."""
    route = served(hello)
    name = route.removeprefix("/")
    seen: dict[str, list[Any]] = {"state": [], "numbers": []}

    def busy(numbers: Any) -> bool:
        mine = numbers["endpoints"].get(name, {"per_second": 0})
        return bool(mine["per_second"] and mine["p99_ms"] and name in str(mine["backends"]))

    with page.stream("GET", "/api/v1/live") as stream:
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            if not line.startswith("data: ") or kind not in seen:
                continue
            seen[kind].append(json.loads(line.removeprefix("data: ")))
            http.get(route)
            if kind == "state" and len(seen["state"]) == 1:
                assert name in seen["state"][0]["endpoints"]
                client.create_endpoint(f"{name}-more", backend=backend_of(client, name))
            elif busy(seen["numbers"][-1]) and f"{name}-more" in seen["state"][-1]["endpoints"]:
                break
    assert seen["state"][-1]["version"] > seen["state"][0]["version"]
    series = page.get("/api/v1/series", params={"endpoint": name}).json()
    assert series["names"][0] == "per_second"
    assert any(row[0] for row in series["rows"])
    client.delete_endpoint(f"{name}-more")


def backend_of(client: serve.Client, endpoint: str) -> str:
    return next(iter(client.get_traffic(endpoint)["weights"]))


def thread_niceness(process: psutil.Process) -> list[int]:
    return [psutil.Process(thread.id).nice() for thread in process.threads()]


def test_nothing_else_listens(client: serve.Client, engine: str) -> None:
    """The console opens one port, on the loopback, and nothing else does beside HTTP and metrics (AD2, S16)."""
    if engine == "ray":
        pytest.skip("the cluster's own processes listen, too")
    connections = [connection for process in family().values() for connection in process.net_connections("inet")]
    listening = {one.laddr for one in connections if one.status == psutil.CONN_LISTEN}
    assert {f"http://{address.ip}:{address.port}" for address in listening} == {
        client.http_address,
        client.metrics_address,
        client.console_address,
    }
