"""Models that one replica loads by id, keeps while they are used, and unloads."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

import pointsman as serve
from tests.conftest import wait_until
from tests.metrics import scrape_when


class Model:
    def __init__(self, name):
        self.name = name
        self.state = "alive"


class Keeper:
    """One model at a time. Notes in a file what it loads and unloads, and on which threads."""

    def __init__(self, path):
        Keeper.path = Path(path)
        self.opened = threading.Event()
        self.loop_thread = None

    def unload(model):
        Keeper.note(f"unload {model.name}")
        model.state = "dead"

    @serve.multiplexed(max_models=1, unload=unload)
    async def model(self, model_id):
        if model_id == "bad":
            Keeper.note("try bad")
            raise LookupError("there is no model 'bad'")
        Keeper.note(f"load {model_id}")
        return Model(model_id)

    @staticmethod
    def note(line):
        user_threads = ("MainThread", "pointsman-sync")
        where = " on a thread of requests" if threading.current_thread().name in user_threads else ""
        with Keeper.path.open("a") as notes:
            notes.write(f"{line}{where}\n")

    async def __call__(self, request):
        model = await self.model(serve.get_multiplexed_model_id())
        return f"{model.name} {model.state}"

    async def plain(self, request):
        return "plain"

    async def values(self, request):
        model = await self.model(serve.get_multiplexed_model_id())
        yield "begun"
        while not self.opened.is_set():
            await asyncio.sleep(0.01)
        yield f"{model.name} {model.state}"

    def open(self, request):
        self.opened.set()
        return "open"


def test_a_streams_model_stays_and_each_is_unloaded_once(served, client, name, tmp_path):
    """With one place a call for a second model waits for the end of a stream that uses the first, others pass, and the
    stream ends with a live model; at the end of the backend the last one is unloaded, too, each of them once and on no
    thread of requests. The counters say so (MX4, MX7, MX8, MX11)."""
    notes = tmp_path / "notes"
    served(Keeper, str(notes))
    handle = client.get_handle(name)
    stream = iter(handle.options(multiplexed_model_id="a", method_name="values").remote().result())
    assert next(stream) == "begun"
    waits = handle.options(multiplexed_model_id="b").remote()
    assert handle.options(method_name="plain").remote().result() == "plain"
    assert notes.read_text() == "load a\n"
    assert handle.options(method_name="open").remote().result() == "open"
    assert list(stream) == ["a alive"]
    assert waits.result() == "b alive"
    page = scrape_when(client, 2, "serve_multiplexed_models_load_counter", backend=name)
    assert page.sum("serve_multiplexed_models_unload_counter", backend=name) == 1
    assert page.sum("serve_num_multiplexed_models", backend=name) == 1
    assert page.sum("serve_multiplexed_model_load_latency_ms_count", backend=name) == 2
    assert {frozenset(labels) for labels, _ in page.of("serve_num_multiplexed_models", backend=name)} == {
        frozenset(("backend", "replica"))
    }
    client.delete_endpoint(name)
    client.delete_backend(name)
    wait_until(lambda: notes.read_text() == "load a\nunload a\nload b\nunload b\n")
    client.create_backend(name, lambda request: None)  # for the fixture, which takes it down
    client.create_endpoint(name, backend=name)


@pytest.mark.same_on_ray
def test_a_model_that_cannot_be_loaded_is_not_tried_at_once(served, client, name, tmp_path):
    """Ten calls for a broken model within a second fail with the loader's own exception after one try, and a call for
    another model is answered (MX9)."""
    notes = tmp_path / "notes"
    served(Keeper, str(notes))
    handle = client.get_handle(name)
    calls = [handle.options(multiplexed_model_id="bad").remote() for _ in range(10)]
    for call in calls:
        with pytest.raises(LookupError, match="no model 'bad'"):
            call.result()
    assert handle.options(multiplexed_model_id="good").remote().result() == "good alive"
    assert notes.read_text().splitlines().count("try bad") == 1


class Batches:
    @serve.multiplexed
    def model(self, model_id):
        return model_id.upper()

    @serve.accept_batch
    def __call__(self, requests):
        model = self.model(serve.get_multiplexed_model_id())
        return [[model, request.body(), len(requests)] for request in requests]


@pytest.mark.same_on_ray
def test_batches_have_one_model(served, client, name):
    """Calls for three models that come in turn make batches of one model each (MX10)."""
    served(Batches, config={"max_batch_size": 4, "batch_wait_timeout": 5})
    handle = client.get_handle(name)
    calls = [(id_, n, handle.options(multiplexed_model_id=id_).remote(n)) for n in range(4) for id_ in "abc"]
    assert [call.result() for *_, call in calls] == [[id_.upper(), n, 4] for id_, n, _ in calls]


def make_app(shop):
    """An ASGI app whose calls use the models of its class."""

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        model = await shop.model(serve.get_multiplexed_model_id())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{model} {len(body)}".encode()})

    return app


@serve.asgi(make_app)
class AppShop:
    @serve.multiplexed
    def model(self, model_id):
        return model_id.upper()


@pytest.mark.same_on_ray
def test_an_apps_calls_wait_for_their_model_with_their_body(client, http, name):
    """A request with a body that follows its head waits for its model, and the app then reads all of it (MX4)."""
    client.deploy(name, AppShop, route=f"/{name}")
    headers = {"serve_multiplexed_model_id": "a"}
    for size in (3, 3_000_000):
        assert http.post(f"/{name}", content=b"x" * size, headers=headers).text == f"A {size}"
    client.delete_endpoint(name)
    client.delete_backend(name)
