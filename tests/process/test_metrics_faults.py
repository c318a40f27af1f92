"""Metrics of processes that die, and the port at which they are read."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import pointsman as serve
from pointsman.client.listening import DEFAULT_METRICS_PORT
from tests.conftest import WAIT_S, family, http_for, start_client, wait_until
from tests.metrics import scrape
from tests.properties import tries

MIXED = tries(2_000, 10_000)
DEADLY = 3 * MIXED // 10
"""The number of the request that kills a replica."""


class Mixed:
    """Notes every query that it has dealt with; may be told to fail, or to die."""

    def __init__(self, ledger):
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def _note(self, what):
        os.write(self._ledger, f"{what}\n".encode())

    def __call__(self, request):
        fuse = request.query_params.get("die")
        if fuse and "x-serve-shadow" not in request.headers and os.path.exists(fuse):
            os.unlink(fuse)  # once is enough: the one that gets the request next must not die, too
            os.kill(os.getpid(), signal.SIGKILL)
        if "bad" in request.query_params:
            self._note("bad")
            raise ValueError("bad")
        self._note("good")
        return "ok"


class MixedBatch(Mixed):
    @serve.accept_batch
    def __call__(self, requests):
        answers = []
        for request in requests:
            try:
                answers.append(Mixed.__call__(self, request))
            except ValueError as error:
                answers.append(error)
        return answers


def test_counts_match_the_ledgers(tmp_path):
    """Thousands of requests with errors, batches, shadows, retries and a replica that is killed: what the port says is
    what clients and models have noted, to the last one, and so do the tallies (MO3, MO4, SH5, RO5)."""
    noted = {tag: tmp_path / tag for tag in ("one", "many", "shadow")}
    fuse = tmp_path / "fuse"
    with start_client() as client:
        client.create_backend("one", Mixed, str(noted["one"]), config={"num_replicas": 2})
        client.create_backend("many", MixedBatch, str(noted["many"]), config={"max_batch_size": 8})
        client.create_backend("shadow", Mixed, str(noted["shadow"]))
        for tag in ("one", "many"):
            client.create_endpoint(tag, backend=tag, route=f"/{tag}", methods=["GET", "POST"])
        client.shadow_traffic("one", "shadow", 1.0)
        seen: Counter[tuple[str, int]] = Counter()
        lock = threading.Lock()

        def ask(first: int) -> None:
            mine: Counter[tuple[str, int]] = Counter()
            with http_for(client) as http:
                for number in range(first, MIXED, 8):
                    route = "/many" if number % 3 else "/one"
                    query = {"bad": "1"} if number % 7 == 0 else {}
                    if number == DEADLY:
                        fuse.touch()
                        route, query = "/one", {"die": str(fuse)}
                    mine[route, http.request("POST" if number % 2 else "GET", route, params=query).status_code] += 1
            with lock:
                seen.update(mine)

        with ThreadPoolExecutor(8) as clients:
            list(clients.map(ask, range(8)))
        assert not fuse.exists(), "no replica was killed"
        wait_until(lambda: scrape(client).sum("serve_http_outcomes_total") == MIXED, what="the last answer's count")
        page = scrape(client)
        for route in ("/one", "/many"):
            expected = {status: count for (of, status), count in seen.items() if of == route}
            delivered = expected.get(200, 0) + expected.get(500, 0)
            assert page.sum("serve_num_http_requests", route=route) == sum(expected.values())
            assert page.sum("serve_http_outcomes_total", route=route) == sum(expected.values())
            assert page.sum("serve_http_outcomes_total", route=route, outcome="delivered") == delivered
            failed = page.sum("serve_http_outcomes_total", route=route, outcome="failed", reason="replica_died")
            assert failed == expected.get(502, 0)
            assert page.sum("serve_num_router_requests", endpoint=route[1:]) == sum(expected.values())

        numbers = client.stats()["endpoints"]
        for tag in ("one", "many"):
            expected = {status: count for (of, status), count in seen.items() if of == f"/{tag}"}
            mine = numbers[tag]["windows"]["policy"]
            assert mine["requests"] == mine["latency_ms"]["count"] == sum(expected.values())
            assert mine["errors"] == expected.get(500, 0) + expected.get(502, 0)

        def counted(tag: str, what: str) -> float:
            return scrape(client).sum(f"serve_backend_{what}_counter", backend=tag)

        def copies() -> float:
            """Each request to `one` was copied, or its copy dropped."""
            return counted("shadow", "request") + scrape(client).sum("serve_num_shadow_dropped", backend="shadow")

        asked = page.sum("serve_num_router_requests", endpoint="one")
        wait_until(lambda: copies() == asked, what="the end of the last copy")
        for tag, ledger in noted.items():
            lines = Counter(ledger.read_text().split())
            assert counted(tag, "request") == lines.total(), tag
            assert counted(tag, "error") == lines["bad"], tag
        assert page.sum("serve_router_retries_total", reason="replica_died") >= 1
        starts = page.of("serve_backend_replica_starts", backend="one")
        assert sorted(labels["reason"] for labels, _ in starts) == ["failure", "initial", "initial"]


def noop(request):
    return "ok"


def test_counts_outlive_those_who_count(tmp_path):
    """Ingress, controller and replica are killed one after the other: no number falls, and the port is back by itself.

    Gauges of the dead are gone; their starts are counted, with the reason (MO4, MO5, FT8, RO11).
    """
    with start_client() as client, http_for(client) as http:
        client.create_backend("b", noop)
        client.create_endpoint("e", backend="b", route="/e")
        for _ in range(20):
            http.get("/e")
        counts = ("serve_num_http_requests", "serve_num_router_requests", "serve_backend_request_counter")
        before = scrape(client)
        status = client.status()
        os.kill(status["backends"]["b"]["replicas"][0]["pid"], signal.SIGKILL)
        wait_until(lambda: len(scrape(client).of("serve_backend_replica_starts", backend="b")) == 2)
        for pid in (status["http"]["ingresses"][0]["pid"], status["controller_pid"]):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: client.status()["backends"]["b"]["replicas_running"] == 1)
        wait_until(lambda: scrape(client).sum("serve_process_starts_total") == 4, what="two more processes")
        after = scrape(client)
        assert [after.sum(name) for name in counts] == [before.sum(name) for name in counts] == [20.0] * 3
        assert len(after.of("serve_replica_queued_queries")) == 1, "a gauge of a dead replica is left"
        assert after.sum("serve_backend_replica_starts", backend="b", reason="failure") == 1
        for _ in range(20):
            assert httpx.get(f"{client.http_address}/e", timeout=WAIT_S).text == "ok"
        assert [scrape(client).sum(name) for name in counts] == [40.0] * 3
        assert client.stats()["endpoints"]["e"]["windows"]["policy"]["requests"] == 40

        sent = answered = 0
        (ingress,) = client.status()["http"]["ingresses"]
        while sent < 60:  # some of them while there is no server
            sent += 1
            with contextlib.suppress(httpx.TransportError):
                answered += httpx.get(f"{client.http_address}/e", timeout=WAIT_S).text == "ok"
            if sent == 20:
                killer = threading.Timer(0.05, os.kill, (ingress["pid"], signal.SIGKILL))
                killer.start()
        killer.join()
        assert 40 + answered <= client.stats()["endpoints"]["e"]["windows"]["policy"]["requests"] <= 40 + sent


def test_a_replica_that_blocks_holds_up_no_scrape():
    """User code that never lets its event loop go costs the others nothing, and is seen to process (MO2)."""

    async def blocks(request):
        time.sleep(3600)

    with start_client() as client:
        client.create_backend("b", blocks)
        client.create_endpoint("e", backend="b")
        client.get_handle("e").remote()
        wait_until(lambda: scrape(client).sum("serve_replica_processing_queries", backend="b") == 1)
        client.delete_endpoint("e")
        client.delete_backend("b", force=True)


def test_given_port_in_use_fails_the_start():
    """Whoever names a port means that port: taken, the start fails, and nothing stays behind (MO6)."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}"):
            start_client(metrics_export_port=port)
    assert not family()


def test_default_port_in_use_is_replaced(caplog):
    """A second instance with the default port: a warning names another port, and the client knows it (MO6).

    The default here is another one than 8080, which any other program on this machine may take or leave meanwhile.
    """
    assert inspect.signature(serve.start).parameters["metrics_export_port"].default is DEFAULT_METRICS_PORT
    assert DEFAULT_METRICS_PORT == 8080
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = type(DEFAULT_METRICS_PORT)(other.getsockname()[1])
        with start_client(metrics_export_port=taken) as client:
            assert client.metrics_address is not None
            port = client.metrics_address.rpartition(":")[2]
            assert port != str(taken)
            assert f"port {taken} is in use, so metrics are at port {port}" in caplog.text
            assert scrape(client).sum("serve_process_starts_total") == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has all of 127.0.0.0/8")
def test_metrics_are_where_http_is():
    """HTTP listens at one address of this machine, and the metrics do so too, and at no other (MO6)."""
    with start_client(host="127.0.0.2") as client:
        assert client.metrics_address is not None
        assert client.metrics_address.startswith("http://127.0.0.2:")
        assert scrape(client).sum("serve_process_starts_total") == 2
        port = int(client.metrics_address.rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()


def test_metrics_can_be_switched_off():
    """With metrics_export_port=None no metrics are recorded and no port is opened; everything else works, also what
    versions are judged by."""
    with start_client(metrics_export_port=None) as client, http_for(client) as http:
        client.create_backend("b", noop)
        client.create_endpoint("e", backend="b", route="/e")
        assert http.get("/e").text == "ok"
        assert client.get_handle("e").remote().result() == "ok"
        assert client.metrics_address is None
        wait_until(lambda: client.status()["endpoints"]["e"]["last_minute"]["requests"] == 2, what="both requests")
        with pytest.raises(serve.exceptions.ServeException, match="records no metrics"):
            client.stats()
        with pytest.raises(ValueError, match="gate 'metrics' would see nothing: this instance records no metrics"):
            client.start_rollout("e", "b", gates={"metrics": {"score": {"better": "higher"}}})


def test_without_http_metrics_are_on_loopback():
    """No HTTP server, and the metrics are there all the same, for this machine only (MO6)."""
    client = serve.start(http_options={"location": "NoServer"}, metrics_export_port=0)
    with client:
        client.create_backend("b", noop)
        client.create_endpoint("e", backend="b")
        client.get_handle("e").remote().result()
        assert client.metrics_address.startswith("http://127.0.0.1:")
        assert scrape(client).sum("serve_num_router_requests", endpoint="e") == 1


@pytest.mark.parametrize(
    ("port", "error"), [("8080", TypeError), (True, TypeError), (-1, ValueError), (65536, ValueError)]
)
def test_ports_that_are_none(port, error):
    """A port that cannot be one is refused before anything starts."""
    with pytest.raises(error, match="metrics_export_port"):
        serve.start(metrics_export_port=port)
