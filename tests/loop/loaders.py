"""User code that loads models by their ids, for tests. It is loaded by reference, so what happened is seen here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import pointsman as serve

DID: list[str] = []
"""What loaders and unloads have done, in order."""
GATES: dict[str, threading.Event] = {}
"""A load or unload of a model with a gate waits for it."""
BROKEN: dict[str, BaseException] = {}
"""Models that cannot be loaded."""
SIZES: dict[str, Any] = {}
THREADS: dict[str, str] = {}
LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def fresh_loaders() -> Iterator[None]:
    for known in (DID, GATES, BROKEN, SIZES, THREADS):
        known.clear()
    yield
    for gate in GATES.values():
        gate.set()


def gate(name: str) -> threading.Event:
    GATES[name] = threading.Event()
    return GATES[name]


class Model:
    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True


def load(name: str) -> Model:
    THREADS[name] = threading.current_thread().name
    DID.append(f"begin {name}")
    if name in GATES:
        assert GATES[name].wait(LIMIT_S), "the test has not opened the gate"
    if name in BROKEN:
        raise BROKEN[name]
    DID.append(f"load {name}")
    return Model(name)


def unload(model: Model) -> None:
    DID.append(f"unload {model.name} on {threading.current_thread().name}")
    assert model.alive, "unloaded twice"
    if f"unload {model.name}" in GATES:
        assert GATES[f"unload {model.name}"].wait(LIMIT_S)
    model.alive = False


def size_of(name: str) -> Any:
    DID.append(f"size {name}")
    if isinstance(SIZES[name], BaseException):
        raise SIZES[name]
    return SIZES[name]


def used(model: Model) -> str:
    return f"{model.name} {'alive' if model.alive else 'dead'}"


class Sync:
    """Two models at most, on the thread of sync code."""

    @serve.multiplexed(max_models=2, unload=unload)
    def model(self, model_id: str) -> Any:
        return load(model_id)

    def __call__(self, request: Any) -> str:
        return used(self.model(serve.get_multiplexed_model_id()))

    def plain(self, request: Any) -> str:
        return f"plain {serve.get_multiplexed_model_id()}"

    def named(self, request: Any) -> str:
        return used(self.model(request.body().decode()))

    def values(self, request: Any) -> Iterator[str]:
        model = self.model(serve.get_multiplexed_model_id())
        for number in range(int(request.body())):
            yield f"{used(model)} {number} "


class Async:
    """The same on the event loop, with a loader that blocks."""

    @serve.multiplexed(max_models=2, unload=unload)
    async def model(self, model_id: str) -> Any:
        await asyncio.sleep(0)
        return load(model_id)

    async def __call__(self, request: Any) -> str:
        return used(await self.model(serve.get_multiplexed_model_id()))

    async def plain(self, request: Any) -> str:
        return f"plain {serve.get_multiplexed_model_id()}"

    async def named(self, request: Any) -> str:
        names = (await request.body()).decode().split()
        return " ".join([used(model) for model in await asyncio.gather(*map(self.model, names))])

    async def slow(self, request: Any) -> str:
        model = await self.model(serve.get_multiplexed_model_id())
        begun = f"run {model.name}"
        DID.append(begun)
        while GATES[begun].is_set() is False:
            await asyncio.sleep(0.002)
        return used(model)

    async def values(self, request: Any) -> AsyncIterator[str]:
        model = await self.model(serve.get_multiplexed_model_id())
        for number in range(int(await request.body())):
            yield f"{used(model)} {number} "


class One(Async):
    """A single model at a time."""

    @serve.multiplexed(max_models=1, unload=unload)
    async def model(self, model_id: str) -> Any:
        return load(model_id)


class Reconfigured(Async):
    def reconfigure(self, user_config: Any) -> None: ...

    def close(self) -> None:
        raise RuntimeError("close failed")


class Sized(Async):
    """As many as fit into 10 bytes."""

    @serve.multiplexed(max_models=-1, max_bytes=10, size_of=size_of, unload=unload)
    def model(self, model_id: str) -> Any:
        return load(model_id)


class Batching:
    @serve.multiplexed
    def model(self, model_id: str) -> Any:
        return load(model_id)

    @serve.accept_batch
    def __call__(self, requests: list[Any]) -> list[str]:
        name = used(self.model(serve.get_multiplexed_model_id()))
        return [f"{name} of {len(requests)}" for _ in requests]


class AsyncBatching:
    @serve.multiplexed(max_models=1, unload=unload)
    def model(self, model_id: str) -> Any:
        return load(model_id)

    @serve.accept_batch
    async def __call__(self, requests: list[Any]) -> list[str]:
        model = await self.model(serve.get_multiplexed_model_id())
        begun = f"run {model.name}"
        DID.append(f"{begun} of {len(requests)}")
        while begun in GATES and not GATES[begun].is_set():
            await asyncio.sleep(0.002)
        return [used(model) for _ in requests]


class Warm:
    """Loads a model in its constructor."""

    def __init__(self) -> None:
        self.first = used(self.model("first"))

    @serve.multiplexed
    def model(self, model_id: str) -> Any:
        return load(model_id)

    def __call__(self, request: Any) -> str:
        return self.first


@serve.multiplexed(max_models=1, unload=unload)
def free_loader(model_id: str) -> Any:
    return load(model_id)


def function(request: Any) -> str:
    """A backend that is a function, with a loader that is one."""
    return used(free_loader(serve.get_multiplexed_model_id() or "default"))


def app_of(shop: Any) -> Any:
    """An ASGI app whose calls use the models of its class."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        model = await shop.model(serve.get_multiplexed_model_id())
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": used(model)})
            await send({"type": "websocket.close"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{used(model)} {len(body)}".encode()})

    return app


@serve.asgi(app_of)
class AppShop:
    @serve.multiplexed(max_models=1, unload=unload)
    def model(self, model_id: str) -> Any:
        return load(model_id)
