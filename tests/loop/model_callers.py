"""Routers' ends of connections to a replica with many models, frame by frame, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pointsman.incoming import CODEC_HTTP, RequestHead
from pointsman.model import ReplicaConfig
from pointsman.testing import MemoryReplica, run
from pointsman.wire.frames import Kind
from pointsman.wire.messages import AppCallHead, AppPart, CallHead, FailureHead, pack, unpack
from pointsman.wire.scaling import ModelsHead
from tests.loop import loaders
from tests.loop.test_runtime import Caller


class ModelCaller(Caller):
    """A router's end of a connection, whose calls name models."""

    def ask(self, model_id: str = "", *, method: str = "", body: str = "1", budget_ms: int = 60_000) -> int:
        self._next += 1
        request = RequestHead("b", CODEC_HTTP, method, "POST", b"/", request_id=f"r{self._next}", model_id=model_id)
        self.stream.send(Kind.CALL, self._next, pack(CallHead(request, budget_ms)), body.encode())
        return self._next

    async def text(self, call_id: int) -> str:
        answers = (Kind.REPLY, Kind.FAILURE, Kind.REFUSE)
        await self.until(lambda: any(frame.kind in answers for frame in self.of(call_id)))
        frame = next(frame for frame in self.of(call_id) if frame.kind in answers)
        if frame.kind == Kind.FAILURE:
            failure = unpack(frame.head, FailureHead)
            return f"{failure.error}: {failure.text}"
        return bytes(frame.body).decode()

    async def texts(self, *call_ids: int) -> list[str]:
        return [await self.text(call_id) for call_id in call_ids]

    @property
    def told(self) -> list[ModelsHead]:
        return [unpack(frame.head, ModelsHead) for frame in self.frames if frame.kind == Kind.MODELS]


def with_models(test: Callable[[MemoryReplica, ModelCaller], Any], code: Any, **config: Any) -> None:
    async def main() -> None:
        limits = ReplicaConfig(**{"http_methods": ("*",), **config})
        async with MemoryReplica(code, config=limits) as replica:
            caller = ModelCaller()
            await caller.connect(replica)
            await test(replica, caller)
            await until_quiet(replica)

    run(main())


async def until(condition: Callable[[], object]) -> None:
    """Wait for what threads do, which tell nobody."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it has not come")


def host_of(replica: MemoryReplica) -> Any:
    assert replica.runtime._models is not None
    return replica.runtime._models._host


async def until_quiet(replica: MemoryReplica) -> None:
    """After each test no model is in use, no slot taken, and the cache's state is in order."""
    models = replica.runtime._models
    if models is not None:
        models._host.validate()
        await until(lambda: not any(model.in_use for model in models._host.models()))
    assert replica.runtime.load == 0


def open_app(caller: ModelCaller, model_id: str, follows: int) -> int:
    caller._next += 1
    request = RequestHead("b", CODEC_HTTP, "", "POST", b"/b", request_id="r", model_id=model_id)
    head = AppCallHead(request, 60_000, app=AppPart("/b", follows=follows))
    caller.stream.send(Kind.CALL, caller._next, pack(head))
    return caller._next


BOTH = pytest.mark.parametrize("code", [loaders.Sync, loaders.Async], ids=["sync", "async"])
