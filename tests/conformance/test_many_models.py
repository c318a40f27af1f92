"""Models by id: how calls name one, where it is loaded, and who says what is held."""

from __future__ import annotations

import collections

import pytest

import pointsman as serve
from pointsman.exceptions import ServeException, UserCodeError


class Shop:
    """Holds up to three models, and says which one a call has got."""

    def __init__(self):
        self.loads = collections.Counter()

    @serve.multiplexed(max_models=3, size_of=len)
    def model(self, model_id):
        self.loads[model_id] += 1
        if model_id == "bad":
            raise LookupError("there is no model 'bad'")
        return f"model {model_id}"

    def __call__(self, request):
        model_id = serve.get_multiplexed_model_id()
        return self.model(model_id) if model_id else "none"

    def named(self, request):
        return serve.get_multiplexed_model_id()

    def loaded(self, request):
        return dict(self.loads)


def asks_another(request):
    """The ids of this call, and of one that is made for it."""
    inner = serve.connect().get_handle(request.query_params["endpoint"]).options(method_name="named")
    return [serve.get_multiplexed_model_id(), inner.remote().result()]


TWO = {"num_replicas": 2}


def test_a_call_gets_the_model_that_it_names(served, client, http, name):
    """A header with underscores or dashes, or an option of a handle, names the model of a call; calls without one have
    none, and an id that is none is refused (MX3)."""
    route = served(Shop)
    for header in ("serve_multiplexed_model_id", "serve-multiplexed-model-id"):
        assert http.get(route, headers={header: "größe".encode()}).text == "model größe"
    assert http.get(route).text == "none"
    for bad in (b"", b"m" * 257, b"\xff"):
        answer = http.get(route, headers={"serve_multiplexed_model_id": bad})
        assert (answer.status_code, answer.json()["reason"]) == (400, "rejected")
        assert "1 to 256 bytes of UTF-8" in answer.json()["error"]
    handle = client.get_handle(name)
    assert handle.options(multiplexed_model_id="a").remote().result() == "model a"
    assert handle.options(multiplexed_model_id="a").options(multiplexed_model_id=None).remote().result() == "none"
    with pytest.raises(ValueError, match="1 to 256"):
        handle.options(multiplexed_model_id="")
    with pytest.raises(TypeError, match="must be a str"):
        handle.options(multiplexed_model_id=7)
    with pytest.raises(ServeException):
        serve.get_multiplexed_model_id()


def test_calls_made_for_a_call_name_no_model(client, served, name):
    """A call that user code makes for one that names a model does not inherit it (MX3)."""
    served(Shop)
    outer = f"{name}-outer"
    client.deploy(outer, asks_another)
    asked = client.get_handle(outer).options(multiplexed_model_id="b").remote(endpoint=name)
    assert asked.result() == ["b", ""]
    client.delete_endpoint(outer)
    client.delete_backend(outer)


def test_a_model_is_loaded_by_one_of_two_replicas(served, client, http, name):
    """Calls for six models, from HTTP and a handle at once, load each of them once, in one of two replicas with three
    places each or so; a client sees who holds what, with sizes (MX5, MX6, MX11)."""
    route = served(Shop, config=TWO)
    handle = client.get_handle(name)
    ids = [f"{'m' * size}" for size in range(1, 4)]
    futures = [handle.options(multiplexed_model_id=model).remote() for model in ids * 10]
    for model in ids * 3:
        assert http.get(route, headers={"serve_multiplexed_model_id": model}).text == f"model {model}"
    assert [future.result() for future in futures] == [f"model {model}" for model in ids * 10]
    held = client.models(name)
    assert len(held) == 2
    models = [model for of_one in held.values() for model in of_one]
    assert sorted(model["id"] for model in models) == ids
    for model in models:
        assert model["bytes"] == len(model["id"])
        assert model["in_use"] == 0
        assert model["idle_s"] >= 0
    with pytest.raises(ValueError, match="does not exist"):
        client.models(f"{name} of nobody")


def test_a_model_that_cannot_be_loaded(served, client, name):
    """A load that fails is the answer of the call, and others are loaded as before; nothing is held of it (MX5)."""
    served(Shop)
    handle = client.get_handle(name)
    with pytest.raises((UserCodeError, LookupError), match="no model 'bad'"):
        handle.options(multiplexed_model_id="bad").remote().result()
    assert handle.options(multiplexed_model_id="good").remote().result() == "model good"
    assert [model["id"] for models in client.models(name).values() for model in models] == ["good"]
