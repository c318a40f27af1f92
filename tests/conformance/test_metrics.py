"""What an instance says of itself at its metrics port."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import pointsman as serve
from tests.conftest import UNWATCHED, WAIT_S, http_for, wait_until
from tests.metrics import difference, scrape, scrape_when
from tests.properties import tries

HISTOGRAMS = ("serve_backend_queuing_latency_ms", "serve_backend_processing_latency_ms")
BOUNDS = ["1.0", "2.0", "5.0", "10.0", "20.0", "50.0", "100.0", "200.0", "500.0", "1000.0", "2000.0", "5000.0", "+Inf"]


def noop(request):
    return "ok"


def sleeper(request):
    time.sleep(1)
    return "slept"


def picky(request):
    if "bad" in request.query_params:
        raise ValueError("bad")
    return "ok"


async def async_picky(request):
    return picky(request)


class PickyBatch:
    @serve.accept_batch
    def __call__(self, requests):
        if any("worst" in request.query_params for request in requests):
            raise RuntimeError("the whole batch")
        return [ValueError("bad") if "bad" in request.query_params else "ok" for request in requests]


class AsyncPickyBatch:
    @serve.accept_batch
    async def __call__(self, requests):
        return PickyBatch.__call__(self, requests)


def streamer(request):
    yield "one"
    if "bad" in request.query_params:
        raise ValueError("bad")
    yield "two"


def test_a_sleeper_takes_just_over_a_second(client, http, served, name):
    """Ray Serve 1.x's example: after some requests, sum / count says that one takes just over 1000 ms (MO1)."""
    route = served(sleeper)
    began = time.monotonic()
    for _ in range(2):
        assert http.get(route).text == "slept"
    page = scrape_when(client, 2, "serve_backend_processing_latency_ms_count", backend=name)
    mean = page.sum("serve_backend_processing_latency_ms_sum", backend=name) / 2
    assert 1000 <= mean <= 1000 * (time.monotonic() - began) / 2


def test_the_nine_are_there_as_written(client, http, served, name):
    """A dashboard for Ray Serve 1.x finds every metric under its name, with its labels and buckets (EX14)."""
    route = served(noop)
    http.get(route)
    page = scrape_when(client, 1, "serve_backend_processing_latency_ms_count", backend=name)
    [replica] = [r["tag"] for r in client.status()["backends"][name]["replicas"]]
    mine = {"backend": name, "replica": replica}
    assert page.of("serve_backend_request_counter", backend=name) == [({"backend": name}, 1.0)]
    assert page.of("serve_backend_error_counter", backend=name) == [({"backend": name}, 0.0)]
    assert page.of("serve_backend_replica_starts", backend=name) == [({**mine, "reason": "initial"}, 1.0)]
    assert page.of("serve_num_http_requests", route=route) == [({"route": route}, 1.0)]
    assert page.of("serve_num_router_requests", endpoint=name) == [({"endpoint": name}, 1.0)]
    for gauge in ("serve_replica_queued_queries", "serve_replica_processing_queries"):
        assert page.of(gauge, backend=name) == [(mine, 0.0)]
    for histogram, more in zip(HISTOGRAMS, ({}, {"batch_size": "1"}), strict=True):
        buckets = page.of(f"{histogram}_bucket", backend=name)
        assert [labels.pop("le") for labels, _ in buckets] == BOUNDS
        assert all(labels == {**mine, **more} for labels, _ in buckets)
        assert buckets[-1][1] == page.sum(f"{histogram}_count", backend=name) == 1


@pytest.mark.parametrize("code", [picky, async_picky, PickyBatch, AsyncPickyBatch, streamer], ids=lambda c: c.__name__)
def test_counts_match_what_callers_saw(client, http, served, name, code):
    """Successes and errors, by HTTP and handle, single, batched and streamed, are counted once each (MO3)."""
    route = served(code)
    grown = difference(client)
    handle = client.get_handle(name)
    if code is streamer:
        handle = handle.options(stream=True)
    good = bad = 0
    for number in range(30):
        fails = number % 3 == 0
        query = {"bad": "1"} if fails else {}
        if number % 2:
            try:
                http.get(route, params=query)
            except httpx.RemoteProtocolError:
                assert fails, "an answer broke that should not"
        elif fails:
            with pytest.raises(ValueError, match="bad"):
                list(handle.remote(**query)) if code is streamer else handle.remote(**query).result()
        else:
            list(handle.remote(**query)) if code is streamer else handle.remote(**query).result()
        good, bad = good + (not fails), bad + fails
    wait_until(lambda: grown("serve_http_outcomes_total", route=route) == 15, what="the last request is counted")
    wait_until(lambda: grown("serve_backend_request_counter", backend=name) == good + bad)
    assert grown("serve_backend_error_counter", backend=name) == bad
    assert grown("serve_num_router_requests", endpoint=name) == good + bad
    assert grown("serve_num_http_requests", route=route) == 15
    outcome = "aborted" if code is streamer else "delivered"
    assert grown("serve_http_outcomes_total", route=route, outcome="delivered", reason="") == 10
    assert grown("serve_http_outcomes_total", route=route, outcome=outcome) - 10 * (code is not streamer) == 5


def test_a_batch_that_fails_is_as_many_errors_as_members(client, http, served, name):
    """A batch raises: each of its members failed (MO3)."""
    route = served(PickyBatch, config={"max_batch_size": 4, "batch_wait_timeout": 5})
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda _: http.get(route, params={"worst": 1}).status_code, range(4)))
    assert statuses == [500] * 4
    page = scrape_when(client, 1, "serve_backend_processing_latency_ms_count", backend=name, batch_size="4")
    assert page.sum("serve_backend_error_counter", backend=name) == 4
    assert page.sum("serve_backend_request_counter", backend=name) == 4
    assert page.sum("serve_batch_size_sum", backend=name) == 4
    assert page.sum("serve_batch_size_count", backend=name) == 1
    assert page.of("serve_backend_processing_latency_ms_count", backend=name, batch_size="4")[0][1] == 1


def test_gauges_are_live(client, served, name, tmp_path):
    """While one query runs and two wait, a scrape says so; when all are done, it says that, too (MO2).

    What was started is counted with the time that it waited in the replica; what was not started is not (MO3).
    """
    gate = tmp_path / "gate"

    @serve.accept_batch
    def waits(requests):
        while not gate.exists():
            time.sleep(0.005)
        return [None] * len(requests)

    served(waits)
    handle = client.get_handle(name)
    futures = [handle.remote() for _ in range(3)]

    def gauges():
        page = scrape(client)
        return [page.sum(f"serve_replica_{what}_queries", backend=name) for what in ("processing", "queued")]

    wait_until(lambda: gauges() == [1, 2], what="one running and two waiting")
    seen = time.monotonic()
    futures.pop().cancel()
    wait_until(lambda: gauges() == [1, 1], what="one less waiting")
    waited_ms = 1000 * (time.monotonic() - seen)
    gate.touch()
    for future in futures:
        future.result()
    wait_until(lambda: gauges() == [0, 0], what="nothing running")
    page = scrape(client)
    for started in ("request_counter", "queuing_latency_ms_count", "processing_latency_ms_count"):
        assert page.sum(f"serve_backend_{started}", backend=name) == 2, f"{started}: one of three was never started"
    assert page.sum("serve_backend_queuing_latency_ms_sum", backend=name) >= waited_ms


def test_calls_that_wait_in_a_router_are_seen(client, served, name, tmp_path):
    """Beyond what a replica is given ahead calls wait in their router, and a gauge tells how many."""
    gate = tmp_path / "gate"

    def waits(request):
        while not gate.exists():
            time.sleep(0.005)

    served(waits)
    handle = client.get_handle(name)
    futures = [handle.remote() for _ in range(3)]
    wait_until(lambda: scrape(client).sum("serve_router_queued_queries", endpoint=name, backend=name) == 2)
    gate.touch()
    for future in futures:
        future.result()
    wait_until(lambda: scrape(client).sum("serve_router_queued_queries", endpoint=name) == 0)


def test_shadows_count_as_their_backend_and_not_as_requests(client, http, served, name):
    """Ten requests with a shadow at 1.0: ten requests of the router, ten queries of each backend (SH5)."""
    route, shadow = served(noop), f"{name}-shadow"
    client.create_backend(shadow, noop)
    client.shadow_traffic(name, shadow, 1.0)
    for _ in range(10):
        http.get(route)
    wait_until(lambda: scrape(client).sum("serve_backend_request_counter", backend=shadow) == 10)
    page = scrape(client)
    assert page.sum("serve_num_router_requests", endpoint=name) == 10
    assert page.sum("serve_backend_request_counter", backend=name) == 10
    client.shadow_traffic(name, shadow, 0)
    client.delete_backend(shadow)


def test_dropped_copies_are_counted(client, http, served, name, tmp_path):
    """A shadow that hangs takes 100 copies; those beyond are dropped, and the metric says how many (SH9)."""
    gate = tmp_path / "gate"

    def waits(request):
        while not gate.exists():
            time.sleep(0.005)

    route, shadow = served(noop), f"{name}-shadow"
    client.create_backend(shadow, waits)
    client.shadow_traffic(name, shadow, 1.0)
    for _ in range(120):
        http.get(route)
    page = scrape_when(client, 20, "serve_num_shadow_dropped", endpoint=name)
    assert page.of("serve_num_shadow_dropped", endpoint=name) == [({"endpoint": name, "backend": shadow}, 20.0)]
    gate.touch()
    client.shadow_traffic(name, shadow, 0)
    client.delete_backend(shadow, force=True)


def test_refusals_are_told_from_failures(client, http, served, name, tmp_path):
    """Not found, wrong method, full queue, deadline before and after the start: each outcome with its reason."""
    gate = tmp_path / "gate"

    def waits(request):
        while not gate.exists():
            time.sleep(0.005)

    route = served(waits, methods=("GET",), config={"max_concurrent_queries": 1, "max_queued_queries": 1})
    grown = difference(client)
    assert http.get(f"{route}/not").status_code == 404
    assert http.post(route).status_code == 405
    with ThreadPoolExecutor(2) as pool:
        patient = [pool.submit(http.get, route)]
        wait_until(lambda: scrape(client).sum("serve_replica_processing_queries", backend=name) == 1)
        patient.append(pool.submit(http.get, route))
        wait_until(lambda: scrape(client).sum("serve_router_queued_queries", endpoint=name) == 1)
        assert http.get(route).status_code == 503
        gate.touch()
        assert [future.result().status_code for future in patient] == [200, 200]
        gate.unlink()
        runs = pool.submit(http.get, route)
        wait_until(lambda: scrape(client).sum("serve_replica_processing_queries", backend=name) == 1)
        assert http.get(route, headers={"x-serve-timeout-s": "0.1"}).status_code == 503
        gate.touch()
        assert runs.result().status_code == 200
        gate.unlink()
        assert http.get(route, headers={"x-serve-timeout-s": "0.1"}).status_code == 504
        gate.touch()
    total = "serve_http_outcomes_total"
    wait_until(lambda: grown(total, route=route) == 7, what="the last request is counted")
    assert grown(total, route="unmatched", outcome="refused", reason="no_such_endpoint") == 1
    assert grown(total, route=route, outcome="refused", reason="rejected") == 1
    assert grown(total, route=route, outcome="refused", reason="queue_full") == 1
    assert grown(total, route=route, outcome="refused", reason="deadline") == 1
    assert grown(total, route=route, outcome="failed", reason="deadline") == 1
    assert grown(total, route=route, outcome="delivered") == 3
    assert grown(total, route=route) == grown("serve_num_http_requests", route=route) == 7


def test_clients_that_leave_are_counted(client, served, name, tmp_path):
    """A client closes its connection while its request runs: that one has failed, and nobody waits for it (HT10).

    It was counted when it came, long before it was known what became of it (MO3).
    """
    gate = tmp_path / "gate"

    def waits(request):
        while not gate.exists():
            time.sleep(0.005)

    route = served(waits)
    host, _, port = client.http_address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as rude:
        rude.sendall(f"GET {route} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        wait_until(lambda: scrape(client).sum("serve_replica_processing_queries", backend=name) == 1)
        assert scrape(client).sum("serve_num_http_requests", route=route) == 1
        assert scrape(client).sum("serve_http_outcomes_total", route=route) == 0
    gone = {"route": route, "outcome": "failed", "reason": "client_gone"}
    wait_until(lambda: scrape(client).sum("serve_http_outcomes_total", **gone) == 1)
    gate.touch()


def test_replica_starts_tell_why(client, served, name):
    """Created, scaled out, updated: the reason stands beside each start (MO4)."""
    served(noop, config=UNWATCHED)
    client.update_backend_config(name, {"num_replicas": 2})

    def starts():
        labels = [labels for labels, _ in scrape(client).of("serve_backend_replica_starts", backend=name)]
        return sorted(label["reason"] for label in labels)

    assert starts() == ["initial", "scale"]
    client.deploy(name, sleeper)
    assert starts() == ["initial", "scale", "update", "update"]


def test_ever_new_paths_add_no_series(client, http, served, name):
    """A scanner tries path after path, and methods that nobody knows: the page stays as long as it was (MO5, H11)."""
    route = served(noop)
    http.get(route)
    http.post("/nowhere")
    host, _, port = client.http_address.removeprefix("http://").partition(":")
    before = scrape_when(client, 1, "serve_replica_start_seconds_count", backend=name)  # told at the next look
    half = tries(10_000, 50_000)

    def scan(first):
        with socket.create_connection((host, int(port))) as scanner:
            replies = scanner.makefile("rb")
            for start in range(first, first + half, 500):
                heads = [b"GET /p/%d HTTP/1.1\r\nhost: x\r\n\r\n" % number for number in range(start, start + 500)]
                scanner.sendall(b"".join(heads))
                for _ in range(500):
                    assert replies.readline().startswith(b"HTTP/1.1 404")
                    size = 0
                    while (line := replies.readline()) != b"\r\n":
                        if line.lower().startswith(b"content-length:"):
                            size = int(line.split(b":")[1])
                    replies.read(size)

    threads = [threading.Thread(target=scan, args=(first,)) for first in (0, half)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = scrape(client)
    for method in ("PROPFIND", "BREW", 'G"T', *(f"M{number}" for number in range(20))):
        with socket.create_connection((host, int(port))) as scanner:
            scanner.sendall(f"{method} {route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            assert scanner.makefile("rb").readline().startswith((b"HTTP/1.1 400", b"HTTP/1.1 405"))

    def new(page):
        """Series that have come; less those of replicas that ended five minutes ago and are retired now."""
        return {(of, labels) for of, labels in page.series - before.series if ("replica", "retired") not in labels}

    refused = {"endpoint": name, "route": route, "outcome": "refused", "reason": "rejected"}
    assert new(scrape(client)) <= {("serve_http_outcomes_total", frozenset(refused.items()))}
    assert not new(after)
    assert after.sum("serve_num_http_requests", route="unmatched") == 2 * half + before.sum(
        "serve_num_http_requests", route="unmatched"
    )


def test_the_page_is_plain_http(client):
    """A browser at the bare port sees the page, OpenMetrics is there for those who ask, and nothing else is."""
    address = client.metrics_address
    assert address is not None
    plain = httpx.get(address, timeout=WAIT_S)
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "serve_process_starts_total" in plain.text
    wanted = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    openmetrics = httpx.get(f"{address}/metrics", headers=wanted, timeout=WAIT_S)
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
    assert httpx.head(f"{address}/metrics", timeout=WAIT_S).text == ""
    assert httpx.get(f"{address}/other", timeout=WAIT_S).status_code == 404
    assert httpx.post(f"{address}/metrics", timeout=WAIT_S).status_code == 405


class Excellent:
    """The example of a custom metric of Ray Serve 1.x."""

    def __init__(self):
        self.my_counter = serve.metrics.Count(
            "my_counter",
            description="The number of excellent requests to this backend.",
            tag_keys=("backend",),
        )
        self.my_counter.set_default_tags({"backend": serve.get_current_backend_tag()})

    def __call__(self, request):
        if "excellent" in request.query_params:
            self.my_counter.record(1)


def test_the_custom_metric_of_ray_serve_1x(client, http, served, name):
    """Made in a constructor, tagged with the backend, counted in requests: it is on the page under its name (CM2)."""
    route = served(Excellent, config={"num_replicas": 2})
    for number in range(20):
        http.get(route, params={"excellent": "yes"} if number % 2 else {})
    page = scrape(client)
    assert page.sum("my_counter", backend=name) == 10
    replicas = {labels["replica"] for labels, _ in page.of("my_counter", backend=name)}
    assert replicas <= {r["tag"] for r in client.status()["backends"][name]["replicas"]}


class TagsItself:
    def __init__(self):
        tags = {"backend": serve.get_current_backend_tag(), "replica": serve.get_current_replica_tag()}
        self.seen = serve.metrics.Gauge("seen_by", "What a replica has seen.", tag_keys=("backend", "replica"))
        self.seen.set_default_tags(tags)
        self.replica = tags["replica"]

    def __call__(self, request):
        self.seen.set(7)
        return self.replica


def test_a_metric_is_tagged_with_its_replica(client, http, served, name):
    """A constructor knows which replica it makes, and tags its metrics so (CM2)."""
    replica = http.get(served(TagsItself)).text
    assert scrape(client).of("seen_by", backend=name) == [({"backend": name, "replica": replica}, 7.0)]


class WithPrometheusClient:
    def __init__(self):
        import prometheus_client

        self.counter = prometheus_client.Counter("their_requests", "Theirs.", ["kind"])

    def __call__(self, request):
        self.counter.labels("good").inc()


def test_metrics_of_prometheus_client_are_exported(client, http, served, name):
    """A model that counts with prometheus-client is served as it is: its metrics are on the page a second later."""
    route = served(WithPrometheusClient)
    for _ in range(3):
        http.get(route)
    wait_until(lambda: scrape(client).sum("their_requests_total", backend=name, kind="good") == 3)
    assert not scrape(client).of("process_cpu_seconds_total")


def test_stats_say_what_happens(client, http, served, name):
    """An operator without Prometheus asks the client: totals at once, rates and percentiles over the next moment."""
    route = served(picky)
    for number in range(20):
        http.get(route, params={"bad": "1"} if number % 4 == 0 else {})
    seen = client.stats()
    assert seen["seconds"] is None
    assert seen["endpoints"][name]["requests"] == 20
    backend = seen["backends"][name]
    assert (backend["requests"], backend["errors"], backend["replicas"]) == (20, 5, 1)
    assert 0 < backend["latency_ms"]["p50"] <= backend["latency_ms"]["p99"]
    assert backend["latency_ms"]["count"] == 20
    endpoint = seen["endpoints"][name]
    assert endpoint["http_latency_ms"]["p50"] > 0
    for window in ("10s", "1m", "10m", "policy"):
        mine = endpoint["backends"][name][window]
        assert (mine["requests"], mine["errors"], mine["latency_ms"]["count"]) == (20, 5, 20)
    begun, stop = threading.Event(), threading.Event()

    def ask():
        with http_for(client) as mine:
            while not stop.is_set():
                mine.get(route)
                begun.set()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert begun.wait(WAIT_S)
        now = client.stats(over_s=0.3)
    finally:
        stop.set()
        asking.join()
    assert now["seconds"] >= 0.3
    assert now["backends"][name]["per_second"] > 0
    assert now["backends"][name]["errors"] == 0
    with pytest.raises(ValueError, match="over_s"):
        client.stats(over_s=0)
