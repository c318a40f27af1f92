"""Traffic across real processes: several HTTP servers, operators and handles, and those that die meanwhile."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

import pointsman as serve
from tests.conftest import WAIT_S, empty, family, http_for, leaves_no_process, start_client, wait_until
from tests.process.test_faults import Load, pids_of
from tests.process.wire import Connection, connections_to_each
from tests.properties import tries


def tag_of_backend(request):
    return serve.get_current_backend_tag()


class Users(Load):
    """Load that keeps what goes wrong with a connection too, as a status of its own.

    Args:
        pause_s: what each user waits after an answer, so that others get the processor too.

    Attributes:
        backends: who gave the answers.
    """

    def __init__(self, client, *, threads=4, pause_s=0.005):
        super().__init__(client, "/e", threads=threads)
        self._pause_s = pause_s
        self.backends = []

    def _ask(self, client, path, method):
        try:
            connection = Connection(client)
            while not self._stop.is_set():
                answer = connection.ask(path)
                self.backends.append(answer.headers["x-serve-backend"])
                self.statuses.append(answer.status)
                time.sleep(self._pause_s)
            connection.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            self.statuses.append(repr(error))


@pytest.fixture(scope="module")
def instance():
    with leaves_no_process():
        client = start_client(processes=2)
        yield client
        client.shutdown()


@pytest.fixture
def client(instance):
    yield instance
    empty(instance)


def serve_split(client, weights, code=tag_of_backend):
    """Backends with weights behind one endpoint, /e."""
    for tag in weights:
        client.create_backend(tag, code)
    client.create_endpoint("e", backend=next(iter(weights)), route="/e")
    client.set_traffic("e", weights)


def test_shares_at_two_http_servers(client):
    """I split traffic 0.5 / 0.3 / 0.2, and thousands of requests at two HTTP servers are split so (TR3, TR7)."""
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    serve_split(client, weights)
    servers = connections_to_each(client, 4)
    assert len(servers) == 2
    total, at_once = tries(10_000, 20_000), 25

    def ask(connection):
        answers = []
        requests = [connection.request("/e")] * at_once
        for _ in range(total // 8 // at_once):
            answers += connection.ask_all(requests)
        return answers

    with ThreadPoolExecutor(8) as threads:
        answers = [answer for own in threads.map(ask, [one for own in servers for one in own]) for answer in own]
    assert {answer.status for answer in answers} == {200}
    assert all(answer.headers["x-serve-backend"] == answer.text for answer in answers)
    assert len(answers) == total
    assert p_of([answer.text for answer in answers], weights) > ONCE_IN_A_MILLION


ONCE_IN_A_MILLION = 1e-6
"""By chance alone a test of significance fails so rarely. Shares of 20,000 requests that are wrong by two hundredths
have a p a thousand times below this; of 10,000, those that are wrong by three."""


def p_of(answers, weights):
    """How likely it is that chance makes shares of three backends as odd as these."""
    counts, total = Counter(answers), len(answers)
    assert set(counts) == set(weights)
    assert len(weights) == 3
    chi_square = sum((counts[tag] - total * weight) ** 2 / (total * weight) for tag, weight in weights.items())
    p = math.exp(-chi_square / 2)  # of two degrees of freedom
    print(f"{dict(counts)}: chi-square {chi_square:.2f}, p {p:.3f}")
    return p


def test_a_dead_backend_keeps_its_share(client):
    """One model dies, and dies again together with the controller: its users wait until it is back, nobody fails,
    and no share of its traffic slips to the others (F38, F1, F8, TR11)."""
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    serve_split(client, weights)
    with Users(client, threads=8) as load:
        for dies_too in (None, "controller_pid"):
            load.go_on_for(200)
            (victim,) = pids_of(client, "b")
            if dies_too:
                os.kill(client.status()[dies_too], signal.SIGKILL)
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda gone=victim: pids_of(client, "b") not in ([], [None], [gone]), what="b is replaced")
        load.go_on_for(1000)
    assert set(load.statuses) == {200}
    assert p_of(load.backends, weights) > ONCE_IN_A_MILLION


OPERATOR = """
import json, sys, time
import pointsman as serve

client = serve.connect(sys.argv[1])
numerators = json.loads(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
for number, numerator in enumerate(numerators):
    time.sleep(max(0.0, began + number / 25 - time.monotonic()))
    client.set_traffic("e", {"a": numerator / 4096, "b": 1 - numerator / 4096})
print(json.dumps({"seconds": time.monotonic() - began}), flush=True)
sys.stdin.readline()
"""
CHANGES = tries(100, 250)


def test_four_operators_change_traffic_at_once(name):
    """Four scripts change the split 25 times a second each while users come: no request fails, everybody's changes keep
    their order, and the last one is in force at every HTTP server at once (F30, CL3, CL4, TR12)."""
    client = serve.start(detached=True, name=name, http_options={"port": 0, "processes": 2}, metrics_export_port=0)
    operators = {}
    try:
        serve_split(client, {"a": 0.5, "b": 0.5})
        servers = [own[0] for own in connections_to_each(client)]
        numbers = random.sample(range(1, 4096), 4 * CHANGES)  # each change has a weight of its own, an exact float
        for number in range(4):
            mine = numbers[number::4]
            process = subprocess.Popen(
                [sys.executable, "-c", OPERATOR, name, json.dumps(mine)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            operators[process] = mine
        for process in operators:
            assert process.stdout.readline() == "ready\n"
        with Users(client, pause_s=0.01) as load:
            for process in operators:
                process.stdin.write("go\n")
                process.stdin.flush()
            with ThreadPoolExecutor(4) as threads:
                reading = [threads.submit(process.stdout.readline) for process in operators]
                seen = {}  # the history keeps 50 policies, so it is read again and again
                while not all(one.done() for one in reading):
                    seen.update((entry["version"], entry) for entry in client.traffic_history("e"))
                    for one in servers:
                        one.ask("/e")  # so that the connection is not idle for too long
                    time.sleep(0.1)
            reports = [json.loads(one.result()) for one in reading]

            def up_to_date():
                version = str(client.get_traffic("e")["version"])
                return all(one.ask("/e").headers["x-serve-policy-version"] == version for one in servers)

            assert up_to_date()  # since the last call has returned
        rates = [CHANGES / report["seconds"] for report in reports]
        print(
            f"{sum(rates):.0f} changes/s ({', '.join(f'{rate:.1f}' for rate in rates)}), {len(load.statuses)} requests"
        )
        assert set(load.statuses) == {200}
        history = client.traffic_history("e")
        seen.update((entry["version"], entry) for entry in history)
        now = client.get_traffic("e")
        assert now["version"] == history[-1]["version"] == max(seen)
        assert now["weights"]["a"] * 4096 in {mine[-1] for mine in operators.values()}
        in_order = [seen[version] for version in sorted(seen)]
        for process, mine in operators.items():
            theirs = [entry["weights"]["a"] * 4096 for entry in in_order if entry["by"].endswith(f"pid {process.pid}")]
            places = [mine.index(numerator) for numerator in theirs]
            print(f"pid {process.pid}: {len(places)} of {CHANGES} changes seen in the history")
            assert all(one < next_one for one, next_one in pairwise(places)), "changes overtook each other"
        for process in operators:
            process.communicate("end\n", timeout=WAIT_S)
            assert process.returncode == 0
    finally:
        for process in operators:
            process.kill()
        client.shutdown()


class Asks:
    """Calls the endpoint from a replica's process."""

    def __init__(self):
        self.handle = serve.connect().get_handle("e")

    def __call__(self, request):
        return [self.handle.options(shard_key=key).remote().result() for key in request.json()]


ASKS_ELSEWHERE = """
import json, sys
import pointsman as serve

client = serve.connect(sys.argv[1])
handle = client.get_handle("e")
keys = json.loads(sys.argv[2])
print(json.dumps([handle.options(shard_key=key).remote().result() for key in keys]))
print(json.dumps([client.explain("e", shard_key=key)["backend"] for key in keys]))
"""


def test_all_processes_agree_about_keys(name):
    """Whichever process decides, both HTTP servers, my script, another one or a replica: a user's key has one home
    (SA1, SA3)."""
    client = serve.start(detached=True, name=name, http_options={"port": 0, "processes": 2})
    try:
        serve_split(client, {"a": 0.5, "b": 0.3, "c": 0.2})
        client.deploy("asks", Asks)
        keys = [f"user-{number}" for number in range(50)]
        client.pin("e", keys[0], "c")
        client.pin("e", keys[1], "b")
        homes = [client.explain("e", shard_key=key)["backend"] for key in keys]
        assert set(homes) == {"a", "b", "c"}
        handle = client.get_handle("e")
        assert [handle.options(shard_key=key).remote().result() for key in keys] == homes
        assert client.get_handle("asks").remote(keys).result() == homes
        for (connection,) in connections_to_each(client):
            assert [connection.ask("/e", x_serve_shard_key=key).text for key in keys] == homes
        done = subprocess.run(
            [sys.executable, "-c", ASKS_ELSEWHERE, name, json.dumps(keys)],
            capture_output=True,
            text=True,
            timeout=2 * WAIT_S,
        )
        assert done.returncode == 0, done.stderr
        assert [json.loads(line) for line in done.stdout.splitlines()] == [homes, homes]
    finally:
        client.shutdown()


def change_everything(client):
    """Weights, shadows, pins, history and the source of keys, none of them as it was at first."""
    serve_split(client, {"a": 0.5, "b": 0.5})
    client.create_backend("c", tag_of_backend)
    client.shadow_traffic("e", "c", 0.25)
    client.set_traffic("e", {"a": 0.875, "b": 0.125})
    client.pin("e", "zoë", "c")
    client.pin("e", "", "b")
    client.create_endpoint("f", backend="a", route="/f", shard_key="cookie:user")


def all_of_it(client):
    return [(client.get_traffic(endpoint), client.traffic_history(endpoint)) for endpoint in ("e", "f")]


def assert_works(client):
    """Keys, pins and rollback do what they did before."""
    version = client.get_traffic("e")["version"]
    connection = Connection(client)
    assert connection.ask("/e", x_serve_shard_key="").text == "b"
    answer = connection.ask("/e", x_serve_shard_key="user 1")
    assert answer.text == client.explain("e", shard_key="user 1")["backend"]
    assert answer.headers["x-serve-policy-version"] == str(version)
    connection.close()
    client.rollback_traffic("e")
    now = client.get_traffic("e")
    assert (now["weights"], now["shadows"]) == ({"a": 0.5, "b": 0.5}, {"c": 0.25})
    assert now["version"] > version
    client.rollback_traffic("e")


def test_traffic_survives_the_controller(client):
    """The controller is killed: no request fails, and policies, pins, shadows and history are what they were
    (F8, G4, SA3)."""
    change_everything(client)
    for _ in range(2):
        before = all_of_it(client)
        with Users(client, threads=2) as load:
            load.go_on_for(20)
            os.kill(client.status()["controller_pid"], signal.SIGKILL)
            load.go_on_for(20)
            assert all_of_it(client) == before
        assert set(load.statuses) == {200}
        assert_works(client)


def test_traffic_survives_a_restart(name, tmp_path):
    """After the whole instance was killed, its state folder brings every policy, pin and version back, and users meet
    the models they knew (IN10, SA3)."""
    options = {"detached": True, "name": name, "state_dir": tmp_path / "state", "http_options": {"port": 0}}
    client = serve.start(**options)
    change_everything(client)
    before = all_of_it(client)
    supervisor = client._raised._process
    processes = family(supervisor.pid)
    supervisor.kill()
    supervisor.wait(WAIT_S)
    wait_until(lambda: not any(process.is_running() for process in processes.values()))
    client = serve.start(**options)
    assert all_of_it(client) == before
    assert_works(client)
    client.shutdown()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP], ids=lambda signum: signum.name)
def test_a_shadow_killed_or_stopped(client, signum):
    """The model under trial is killed, or stands still, under load: my users notice nothing (SH4, SH9)."""
    serve_split(client, {"a": 1.0})
    client.create_backend("shadow", tag_of_backend)
    client.shadow_traffic("e", "shadow", 1)
    (victim,) = pids_of(client, "shadow")
    with Users(client) as load:
        load.go_on_for(50)
        os.kill(victim, signum)
        load.go_on_for(600)  # more than the copies that may be under way
        if signum == signal.SIGKILL:
            wait_until(lambda: pids_of(client, "shadow") not in ([], [None], [victim]), what="the shadow is replaced")
            load.go_on_for(50)
        handle = client.get_handle("e")
        assert {future.result() for future in [handle.remote() for _ in range(300)]} == {"a"}
    assert set(load.statuses) == {200}
    client.shadow_traffic("e", "shadow", 0)
    client.delete_backend("shadow", force=True)
    with http_for(client) as http:
        assert http.get("/e").text == "a"


class Slow:
    """Holds calls until a file is there."""

    def __init__(self, go):
        self.go = Path(go)

    def __call__(self, request):
        self.go.with_suffix(".begun").touch()
        while not self.go.exists():
            time.sleep(0.01)
        return "old"


def test_calls_that_wait_for_a_deleted_backend(client, tmp_path):
    """I move traffic away and delete the old model while calls wait in its queue: the new one answers them, and the old
    one finishes what it had begun (TR5, F30, RU1)."""
    go = tmp_path / "go"
    client.create_backend("old", Slow, str(go), config={"max_concurrent_queries": 1})
    client.create_backend("new", lambda request: "new")
    client.create_endpoint("e", backend="old", route="/e", methods=["GET", "POST"])
    handle = client.get_handle("e")
    begun = handle.remote()
    wait_until(go.with_suffix(".begun").exists, what="the first call runs")
    waiting = [handle.remote() for _ in range(50)]
    over_http = []

    def ask(method):
        with http_for(client) as http:
            answer = http.request(method, "/e")
            over_http.append((answer.status_code, answer.text))

    asking = [threading.Thread(target=ask, args=(method,)) for method in ["GET", "POST"] * 5]
    for thread in asking:
        thread.start()
    client.set_traffic("e", {"new": 1})
    assert handle.remote().result() == "new"
    deleting = threading.Thread(target=client.delete_backend, args=("old",))
    deleting.start()
    assert [future.result() for future in waiting] == ["new"] * 50
    for thread in asking:
        thread.join(WAIT_S)
    assert over_http == [(200, "new")] * 10
    assert not begun.done()
    go.touch()
    assert begun.result() == "old"
    deleting.join(WAIT_S)
    assert "old" not in client.list_backends()


def test_what_breaks_in_a_router_is_raised_at_the_caller(client, monkeypatch):
    """Should Pointsman itself go wrong while it sends my call, I hear of it and do not wait for ever (G9)."""
    client.deploy("a", tag_of_backend)
    handle = client.get_handle("a")
    assert handle.remote().result() == "a"

    def breaks(head):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("pointsman.routing.remote.pack", breaks)
    futures = [handle.remote() for _ in range(3)]
    for future in futures:
        with pytest.raises(ZeroDivisionError, match="a fault of ours"):
            future.result(timeout=WAIT_S)
    monkeypatch.undo()
    assert handle.remote().result() == "a"
