"""Backends: creating, refusing, scaling, configuring, deleting."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pointsman as serve
from pointsman.exceptions import BackendStartError
from tests.conftest import WAIT_S, wait_until
from tests.metrics import scrape
from tests.process.load import PAUSE_S


def echo(request):
    return request.body()


class Identity:
    def __call__(self, request):
        return serve.get_current_replica_tag()


class Broken:
    def __init__(self, text="no weights"):
        raise FileNotFoundError(text)


def two_arguments(request, other):
    return None


def state(client):
    return client.list_backends(), client.list_endpoints()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((echo,), {"config": {"num_replica": 2}}, ValueError, "num_replicas"),
        ((echo,), {"config": {"num_replicas": 0}}, ValueError, "num_replicas.*0"),
        ((echo,), {"config": {"num_replicas": -1}}, ValueError, "-1"),
        ((echo,), {"config": {"num_replicas": "hello"}}, ValueError, "hello"),
        ((echo,), {"config": {"max_batch_size": 2}}, ValueError, "accept_batch"),
        ((echo,), {"config": {"batch_wait_timeout": -1}}, ValueError, "batch_wait_timeout"),
        ((echo,), {"config": {"user_config": {}}}, ValueError, "reconfigure"),
        ((Identity,), {"config": {"user_config": 1}}, ValueError, "reconfigure"),
        ((echo,), {"config": 5}, TypeError, "5"),
        ((echo, 1), {}, ValueError, "echo"),
        ((two_arguments,), {}, TypeError, "other"),
        ((functools.partial(echo),), {}, TypeError, "partial"),
        ((len,), {}, TypeError, "len"),
        ((Identity(),), {}, TypeError, "Identity"),
        ((echo,), {"ray_actor_options": 1}, TypeError, "ray_actor_options"),
        ((echo,), {"ray_actor_options": {"num_cpus": "1"}}, TypeError, "num_cpus"),
        ((echo,), {"ray_actor_options": {"num_cpus": -1}}, ValueError, "num_cpus"),
        ((echo,), {"ray_actor_options": {"num_gpus": float("nan")}}, ValueError, "num_gpus"),
        ((echo,), {"ray_actor_options": {"num_gpus": 1.5}}, ValueError, "whole"),
        ((echo,), {"ray_actor_options": {"lifetime": "detached"}}, ValueError, "lifetime"),
        ((echo,), {"ray_actor_options": {"resources": {"a": "b"}}}, TypeError, "'b'"),
        ((echo,), {"ray_actor_options": {"env_vars": {"A": 1}}}, TypeError, "A"),
        ((Broken, threading.Lock()), {}, TypeError, "init argument 0"),
    ],
)
def test_bad_backends(client, name, arguments, options, error, text):
    """A backend that cannot be is refused with the reason, and nothing has changed (CB1-CB8, BC1, RM2, FR3)."""
    before = state(client)
    with pytest.raises(error, match=text):
        client.create_backend(name, *arguments, **options)
    assert state(client) == before


@pytest.mark.parametrize("bad", ["", "a\nb", "x" * 201])
def test_bad_names(client, bad):
    """Names that cannot be shown are refused before anything else (CL1)."""
    with pytest.raises(ValueError, match="printable"):
        client.create_backend(bad, echo)
    with pytest.raises(ValueError, match="printable"):
        client.create_endpoint(bad, backend="x")
    with pytest.raises(ValueError, match="printable"):
        client.deploy(bad, echo)
    with pytest.raises(TypeError, match="5"):
        client.create_backend(5, echo)


@pytest.mark.parametrize("odd", ["..", "with space", "モデル", "a#b", "~", "%2e", "x" * 200, "a/b", "/", "../../x"])
@pytest.mark.same_on_ray
def test_odd_names_work(client, odd):
    """Any printable name works, and none becomes a path (CL1, S12)."""
    client.create_backend(odd, echo)
    client.create_endpoint(odd, backend=odd)
    assert client.get_handle(odd).remote("here").result() == "here"
    client.delete_endpoint(odd)
    client.delete_backend(odd)


@pytest.mark.same_on_ray
def test_duplicate_tag(served, client, name):
    """A tag is taken once (CB1, LC1)."""
    served(echo)
    with pytest.raises(ValueError, match=f"{name}.*exists"):
        client.create_backend(name, echo)


@pytest.mark.same_on_ray
def test_the_dict_of_options_is_not_changed(served):
    """The caller's dicts stay as they were (CB6)."""
    options = {"num_cpus": 0.5, "env_vars": {"A": "1"}}
    config = {"num_replicas": 1}
    served(echo, ray_actor_options=options, config=config)
    assert options == {"num_cpus": 0.5, "env_vars": {"A": "1"}}
    assert config == {"num_replicas": 1}


def test_failing_constructor(client, name):
    """A constructor that raises on every try raises here, with its traceback, and leaves nothing (CB10)."""
    before = state(client)
    with pytest.raises(BackendStartError, match=name) as caught:
        client.create_backend(name, Broken, "weights.bin is missing", config={"num_replicas": 2})
    cause = caught.value.__cause__
    assert isinstance(cause, FileNotFoundError)
    assert "weights.bin is missing" in str(cause)
    assert "in __init__" in str(cause.__cause__)
    assert state(client) == before
    client.create_backend(name, echo)  # the tag is free again
    client.delete_backend(name)


def test_a_constructor_may_fail_once(client, name, tmp_path):
    """One failed start among three is tried again without a word to the caller (CB10)."""

    class Moody:
        def __init__(self, folder):
            marker = Path(folder) / "tried"
            if not marker.exists():
                marker.touch()
                raise OSError("not this time")

        def __call__(self, request):
            return "up"

    client.create_backend(name, Moody, str(tmp_path))
    client.create_endpoint(name, backend=name)
    assert client.get_handle(name).remote().result() == "up"
    client.delete_endpoint(name)
    client.delete_backend(name)


def test_exit_in_the_constructor(client, engine, name):
    """A constructor that ends its process is an error, not a hang; on Ray it does not say how it ended (CB10, EN3)."""

    class Leaves:
        def __init__(self):
            os._exit(7)

    how = "exited, crashed or was killed" if engine == "ray" else "exit code 7"
    with pytest.raises(BackendStartError, match=how):
        client.create_backend(name, Leaves)
    assert name not in client.list_backends()


def test_replicas_start_in_parallel(client, name, tmp_path):
    """Two constructors that wait for each other both finish (SO6)."""

    class Meets:
        def __init__(self, folder):
            (Path(folder) / serve.get_current_replica_tag()).touch()
            deadline = time.monotonic() + WAIT_S
            while len(list(Path(folder).iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(list(Path(folder).iterdir())) == 2

        def __call__(self, request):
            return None

    client.create_backend(name, Meets, str(tmp_path), config={"num_replicas": 2})
    client.delete_backend(name)


@pytest.mark.same_on_ray
def test_a_slow_constructor_delays_nobody_else(client, name, tmp_path):
    """While one backend loads, others can be made and changed (CL6)."""
    go = tmp_path / "go"

    class Loads:
        def __init__(self, path):
            while not os.path.exists(path):
                time.sleep(0.01)

        def __call__(self, request):
            return None

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.create_backend, f"{name}-slow", Loads, str(go))
        client.create_backend(name, echo)
        client.create_endpoint(name, backend=name)
        client.delete_endpoint(name)
        client.delete_backend(name)
        assert not slow.done()
        go.touch()
        slow.result(30)
    client.delete_backend(f"{name}-slow")


def replicas_seen(handle, calls=40):
    return {handle.remote().result() for _ in range(calls)}


def test_scale_out_and_in(served, client, name):
    """Replicas share the work; scaling down leaves one that does it all (SO1, SO2, SO4, SO9)."""
    served(Identity, config={"num_replicas": 2, "max_queued_queries": 77})
    handle = client.get_handle(name)
    assert len(replicas_seen(handle, 10)) == 2
    client.update_backend_config(name, serve.BackendConfig(num_replicas=3))
    assert len(replicas_seen(handle)) == 3
    client.update_backend_config(name, {"num_replicas": 1})
    assert len(replicas_seen(handle)) == 1
    config = client.get_backend_config(name)
    assert (config.num_replicas, config.max_queued_queries) == (1, 77)
    assert len(client.status()["backends"][name]["replicas"]) == 1


class LongOrShort:
    """A call with a number waits until a file is there; others do not."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __call__(self, request):
        body = request.body()
        if isinstance(body, bytes):
            body = body.decode()
        if not body:
            return "short"
        (self.folder / f"begun {body}").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.005)
        return f"long {body}"


@pytest.mark.parametrize("way", ["handle", "loops", "http"])
@pytest.mark.same_on_ray
def test_the_second_call_is_not_put_behind_the_first(served, client, http, name, tmp_path, way):
    """Right after ``create_backend`` with two replicas the second call runs beside the first, which takes long; and so
    do all short ones that come later, from event loops that know nothing of each other too (BC6, SO1)."""
    route = served(LongOrShort, str(tmp_path), config={"num_replicas": 2})
    handle = client.get_handle(name)

    async def call_from_loop(body):
        return await (await client.get_handle(name, sync=False).remote(body))

    def call(body):
        if way == "loops":
            return asyncio.run(call_from_loop(body))
        return handle.remote(body).result(WAIT_S) if way == "handle" else http.post(route, content=body).text

    with ThreadPoolExecutor(9) as pool:
        long = pool.submit(call, "1")
        wait_until((tmp_path / "begun 1").exists)
        assert call("") == "short"
        for _ in range(5):
            assert list(pool.map(call, [""] * 8)) == ["short"] * 8
        assert not long.done()
        (tmp_path / "go").touch()
        assert long.result() == "long 1"


@pytest.mark.same_on_ray
def test_scaling_in_waits_for_what_runs(served, client, name, tmp_path):
    """A call that takes replicas away returns when those have finished what they ran, and not before (SO7, DR3)."""
    served(Waits, str(tmp_path), config={"num_replicas": 2})
    handle, futures = client.get_handle(name), []

    def both_run():
        futures.append(handle.remote())  # one that is connected a moment later gets the next
        return scrape(client).sum("serve_replica_processing_queries", backend=name) == 2

    wait_until(both_run, what="each of the two runs a request")
    with ThreadPoolExecutor(1) as pool:
        scaled = pool.submit(client.update_backend_config, name, {"num_replicas": 1})
        wait_until(lambda: "DRAINING" in {r["state"] for r in client.status()["backends"][name]["replicas"]})
        assert not scaled.done()
        (tmp_path / "go").touch()
        scaled.result(WAIT_S)
    assert len(client.status()["backends"][name]["replicas"]) == 1
    assert set(serve.get(futures)) == {"done"}


@pytest.mark.same_on_ray
def test_scaling_under_load_loses_nothing(served, client, http, name):
    """Scaling up and down under load fails no request (SO11)."""
    route = served(Identity)
    stop = threading.Event()
    statuses: list[int] = []

    def ask():
        while not stop.wait(PAUSE_S):
            statuses.append(http.get(route).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for replicas in (3, 1, 2, 1):
        client.update_backend_config(name, {"num_replicas": replicas})
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}


@pytest.mark.same_on_ray
def test_only_limits_change_without_restart(served, client, name):
    """A changed limit keeps the same replicas (SO5, BC7)."""
    served(Identity, config={"num_replicas": 2})
    tags = lambda: {replica["tag"] for replica in client.status()["backends"][name]["replicas"]}  # noqa: E731
    before = tags()
    client.update_backend_config(name, {"max_concurrent_queries": 5, "max_queued_queries": 5})
    assert tags() == before
    assert replicas_seen(client.get_handle(name)) <= before


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"num_replicas": 0}, ValueError, "num_replicas"),
        ({"max_batch_size": 2}, ValueError, "accept_batch"),
        ({"user_config": 1}, ValueError, "reconfigure"),
        ({"nonsense": 1}, ValueError, "nonsense"),
        (None, TypeError, "None"),
        ([], TypeError, "dict"),
    ],
)
@pytest.mark.same_on_ray
def test_bad_updates(standing, client, changes, error, text):
    """A bad change is refused, and the old config stays in force (BC1, CB5, CB8)."""
    name = standing(echo, max_queued_queries=7)
    before = client.get_backend_config(name)
    with pytest.raises(error, match=text):
        client.update_backend_config(name, changes)
    assert client.get_backend_config(name) == before


def test_unknown_backends(client, name):
    """Reading or changing an unknown backend is an error; deleting it is not (LC9)."""
    with pytest.raises(ValueError, match=name):
        client.update_backend_config(name, {"num_replicas": 1})
    with pytest.raises(ValueError, match=name):
        client.get_backend_config(name)
    client.delete_backend(name)


@pytest.mark.same_on_ray
def test_a_backend_in_use_stays(served, client, name):
    """A backend that an endpoint uses, also at weight 0, cannot be deleted (TR10)."""
    served(echo)
    client.create_backend(f"{name}-2", echo)
    client.set_traffic(name, {name: 0.0, f"{name}-2": 1.0})
    with pytest.raises(ValueError, match=repr(name)):
        client.delete_backend(name)
    client.set_traffic(name, {f"{name}-2": 1})
    client.delete_backend(name)
    assert name not in client.list_backends()
    client.create_backend(name, echo)
    client.set_traffic(name, {name: 1})
    client.delete_backend(f"{name}-2")


@pytest.mark.same_on_ray
def test_a_tag_is_reusable_with_new_code(client, name):
    """After a delete the tag serves new code (LC3)."""
    client.create_backend(name, lambda request: "old")
    client.delete_backend(name)
    client.create_backend(name, lambda request: "new")
    client.create_endpoint(name, backend=name)
    assert client.get_handle(name).remote().result() == "new"
    client.delete_endpoint(name)
    client.delete_backend(name)


class Waits:
    """Says that it has begun, and ends when told."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __call__(self, request):
        (self.folder / "begun").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.005)
        return "done"


def test_deleting_drains(client, name, tmp_path):
    """Queued requests finish before delete returns (DR1, DR3)."""
    client.create_backend(name, Waits, str(tmp_path))
    client.create_endpoint(name, backend=name)
    handle = client.get_handle(name)
    futures = [handle.remote() for _ in range(10)]
    wait_until((tmp_path / "begun").exists)
    client.delete_endpoint(name)
    with ThreadPoolExecutor(1) as pool:
        deleted = pool.submit(client.delete_backend, name)
        wait_until(lambda: name not in client.list_backends())
        assert not deleted.done()
        (tmp_path / "go").touch()
        deleted.result(30)
    assert serve.get(futures) == ["done"] * 10


@pytest.mark.parametrize("force", [False, True])
def test_a_request_that_never_ends_holds_nothing_up(client, http, name, tmp_path, force):
    """A handler that never returns is killed at the drain limit, or at once by force (DR2, DR4)."""
    limit_s = 600 if force else 0.5
    config = {"experimental_graceful_shutdown_timeout_s": limit_s}
    client.create_backend(name, Waits, str(tmp_path), config=config)
    client.create_endpoint(name, backend=name, route=f"/{name}", methods=["POST"])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(http.post, f"/{name}")
        wait_until((tmp_path / "begun").exists)
        client.delete_endpoint(name)
        client.delete_backend(name, force=force)
        assert answer.result().status_code == 502
    assert answer.result().json()["reason"] == "replica_died"


class Settings:
    def __init__(self):
        self.seen = []

    def reconfigure(self, config):
        if config == "bad":
            raise RuntimeError("cannot take it")
        self.seen.append(config)

    def __call__(self, request):
        return self.seen


def seen_by_all(handle):
    """What the replicas have been told, without repeats."""
    answers = [handle.remote().result() for _ in range(20)]
    return [answer for index, answer in enumerate(answers) if answer not in answers[:index]]


@pytest.mark.same_on_ray
def test_reconfigure(served, client, name):
    """A user_config reaches every replica: at start, later ones, and after each change (RC1, RC2, RC4, RC6, RC7)."""
    served(Settings, config={"user_config": 0, "num_replicas": 2})
    handle = client.get_handle(name)
    assert seen_by_all(handle) == [[0]]
    client.update_backend_config(name, {"num_replicas": 3})
    assert seen_by_all(handle) == [[0]]
    client.update_backend_config(name, {"user_config": {}})
    assert seen_by_all(handle) == [[0, {}]]
    client.update_backend_config(name, {"user_config": {}, "max_queued_queries": 9})
    assert seen_by_all(handle) == [[0, {}]]
    assert client.get_backend_config(name).user_config == {}


@pytest.mark.same_on_ray
def test_failed_reconfigure_goes_back(served, client, name):
    """A user_config that the code refuses raises here, and the old one is in force everywhere (RC10)."""
    served(Settings, config={"user_config": "good", "num_replicas": 2})
    with pytest.raises(BackendStartError, match="cannot take it") as caught:
        client.update_backend_config(name, {"user_config": "bad"})
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert client.get_backend_config(name).user_config == "good"
    answers = [client.get_handle(name).remote().result() for _ in range(10)]
    assert all(answer[-1] == "good" for answer in answers)
