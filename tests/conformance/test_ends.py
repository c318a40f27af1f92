"""The end of user code: ``close``, the end of its object, and that of its process."""

from __future__ import annotations

import atexit
import time

import pytest

import pointsman as serve
from tests.conftest import UNWATCHED, WAIT_S, start_client, wait_until


class Closes:
    """Writes down what becomes of it."""

    def __init__(self, path, name="one"):
        self.path = path
        self.name = name
        self.me = self  # a cycle, which only a collection finds
        self.buffered = open(f"{path}.buffered", "w")  # noqa: SIM115 - left to the interpreter, as people do
        self.buffered.write("kept")
        atexit.register(self.note_at, path, "exit")

    @staticmethod
    def note_at(path, line):
        with open(path, "a") as journal:
            journal.write(f"{line}\n")

    def note(self, line):
        self.note_at(self.path, f"{self.name} {line}")

    def __call__(self, request):
        time.sleep(float(request.query_params.get("s", 0)))
        self.note("request")
        return "ok"

    def close(self):
        self.note("close")

    def __del__(self):
        self.note("del")


class ClosesLater(Closes):
    async def close(self):
        import asyncio

        await asyncio.sleep(0.01)
        self.note("close")


class FailsToClose(Closes):
    def close(self):
        self.note("close")
        raise LookupError("nothing to close")


class Hangs(Closes):
    def close(self):
        self.note("close")
        time.sleep(600)


class HangsLater(Closes):
    async def close(self):
        import asyncio

        self.note("close")
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                continue


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "journal"
    path.touch()
    return path


def lines(journal):
    return journal.read_text().split("\n")[:-1]


@pytest.mark.parametrize("code", [Closes, ClosesLater, FailsToClose])
def test_deleting_a_backend_closes_it(client, name, journal, code):
    """``close`` is called after the last request, then the object ends, then the process, whose files are written
    (CB11)."""
    client.create_backend(name, code, str(journal))
    client.create_endpoint(name, backend=name)
    future = client.get_handle(name).remote(s=0.5)
    client.get_handle(name).remote().result()
    future.result()
    client.delete_endpoint(name)
    client.delete_backend(name)
    wait_until(lambda: "exit" in lines(journal), what="the process has ended")
    assert lines(journal) == ["one request", "one request", "one close", "one del", "exit"]
    assert journal.with_name("journal.buffered").read_text() == "kept"


def test_scaling_in_and_redeploying_close(client, name, journal):
    """A replica that is not wanted any more, and one of an old version, are closed; the others are not (CB11, SO7)."""
    client.deploy(name, Closes, str(journal), "old", config={"num_replicas": 2, **UNWATCHED})
    client.update_backend_config(name, {"num_replicas": 1})
    wait_until(lambda: lines(journal) == ["old close", "old del", "exit"], what="one replica has ended")
    client.deploy(name, Closes, str(journal), "new")
    wait_until(lambda: lines(journal) == ["old close", "old del", "exit"] * 2, what="the other one has ended, too")
    client.delete_endpoint(name)
    client.delete_backend(name, force=True)
    assert "new close" not in lines(journal), "it was ended by force"


@pytest.mark.parametrize("code", [Hangs, HangsLater])
def test_a_close_that_hangs_holds_nothing_up(client, name, journal, code):
    """What does not return from ``close`` within the drain limit is ended all the same (CB11)."""
    client.create_backend(name, code, str(journal), config={"graceful_shutdown_timeout_s": 0.2})
    began = time.monotonic()
    client.delete_backend(name)
    assert time.monotonic() - began < WAIT_S
    assert lines(journal)[0] == "one close"


def test_callers_cannot_close(client, name, journal):
    """``close`` is no method for callers (RQ7, CB11)."""
    client.create_backend(name, Closes, str(journal))
    client.create_endpoint(name, backend=name)
    with pytest.raises(serve.exceptions.ServeException, match="close"):
        client.get_handle(name).options(method_name="close").remote().result()
    client.delete_endpoint(name)
    client.delete_backend(name, force=True)
    assert lines(journal) == []


class Busy:
    """Waits in each request for a change of its config."""

    def __init__(self):
        import threading

        self.changed = threading.Event()
        self.value = None

    def __call__(self, request):
        return self.value if self.changed.wait(60) else "too late"

    def reconfigure(self, config):
        if config == "bad":
            raise LookupError("bad config")
        self.value = config
        if config != "first":
            self.changed.set()


class BusyLater:
    def __init__(self):
        self.value = None

    async def __call__(self, request):
        import asyncio

        while self.value == "first":
            await asyncio.sleep(0.001)
        return self.value

    async def reconfigure(self, config):
        self.value = config


@pytest.mark.parametrize("code", [Busy, BusyLater])
def test_reconfigure_beside_a_request(client, name, code):
    """With ``reconfigure_while_running`` a new config is given at once, and a request that runs sees it (BC9)."""
    config = {"user_config": "first", "reconfigure_while_running": True, "max_concurrent_queries": 5}
    client.deploy(name, code, config=config)
    future = client.get_handle(name).remote()
    wait_until(lambda: client.status()["endpoints"], what="the call is on its way")
    if code is Busy:
        with pytest.raises(serve.exceptions.BackendStartError, match="bad config"):
            client.update_backend_config(name, {"user_config": "bad"})
    client.update_backend_config(name, {"user_config": "second"})
    assert future.result() == "second"
    assert client.get_backend_config(name).reconfigure_while_running is True
    client.delete_endpoint(name)
    client.delete_backend(name)


class Methods:
    def __call__(self, request):
        return serve.get_current_replica_tag()

    def open(self, request):
        return "open"

    def unload(self, request):
        return "unloaded"


def test_methods_are_opened_and_closed_to_http(served, http, client, name):
    """Over HTTP nothing but what is named can be chosen, from the next request after a change on, by the same replica;
    handles may choose as before, also for a request that came over HTTP (RQ7, BC8, DP4)."""
    client.deploy(name, Methods, route=f"/{name}", config=UNWATCHED)
    route, tag = f"/{name}", http.get(f"/{name}").text

    def status(method):
        return http.get(route, headers={"X-SERVE-CALL-METHOD": method}).status_code

    assert [status(method) for method in ("__call__", "open", "unload", "no-such")] == [200, 400, 400, 400]
    assert client.get_handle(name).options(method_name="unload").remote().result() == "unloaded"
    for names, expected in ((["open"], [200, 400]), ("*", [200, 200]), ([], [400, 400]), (["unload"], [400, 200])):
        client.update_backend_config(name, {"http_methods": names})
        assert [status(method) for method in ("open", "unload")] == expected
        assert http.get(route).text == tag
    handle = client.get_handle(name).options(method_name="open")

    class Outer:
        def __init__(self, handle):
            self.handle = handle

        def __call__(self, request):
            return self.handle.remote(request).result()

    client.deploy(f"{name}-outer", Outer, handle, route=f"/{name}-outer")
    assert http.get(f"/{name}-outer").text == "open"
    client.deploy(name, Methods)
    assert client.get_backend_config(name).http_methods == ["unload"]
    assert [status(method) for method in ("open", "unload")] == [400, 200]
    for each in (f"{name}-outer", name):
        client.delete_endpoint(each)
        client.delete_backend(each)


def test_the_end_of_an_instance_closes(engine, name, journal):
    """``shutdown`` is the end of every replica, in good order (CB11)."""
    client = start_client(engine)
    client.deploy(name, Closes, str(journal))
    client.get_handle(name).remote().result()
    client.shutdown()
    # A cluster that goes with its instance cuts its workers' exit short.
    ends = [] if engine == "ray" else ["exit"]
    assert lines(journal)[: 3 + len(ends)] == ["one request", "one close", "one del", *ends]
    assert journal.with_name("journal.buffered").read_text() == "kept"
