"""Many models in one replica: what routers are told of them, apps, and the end of a replica."""

from __future__ import annotations

import asyncio
import pickle
import random
from pathlib import Path

import msgspec
import pytest

from pointsman.model import Reason
from pointsman.replica.ledger import StartedLedger
from pointsman.replica.runtime import Runtime
from pointsman.testing import MemoryReplica, TestClient, new_call, real_time, run
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import (
    BODY,
    SOCKET,
    WHOLE,
    RefuseHead,
    ReplyHead,
    unpack,
)
from pointsman.wire.scaling import ModelsHead
from pointsman.wire.started import StartedCalls, path_of
from tests.loop import loaders
from tests.loop.loaders import BROKEN, DID, fresh_loaders, gate
from tests.loop.model_callers import BOTH, ModelCaller, host_of, open_app, until, until_quiet, with_models
from tests.loop.routers import routed

__all__ = ["fresh_loaders"]


# --- what routers are told ---------------------------------------------------------------------------------------


def test_routers_hear_what_a_replica_holds_before_calls_are_answered() -> None:
    """A router that connects gets all there is, then each change: a load that begins, the model that is there before
    the answer of who waited for it, and one that has gone (MX5, MX11)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        assert caller.told == [ModelsHead(room=2, whole=True)]
        opened = gate("a")
        call = caller.ask("a")
        await caller.until(lambda: len(caller.told) > 1)
        opened.set()
        await caller.answer(call)
        kinds = [(frame.kind, frame.call_id) for frame in caller.frames]
        assert kinds.index((Kind.REPLY, call)) == len(kinds) - 1
        assert caller.told[1].loading == {"a": 1}
        assert caller.told[-1].held == ("a",)
        assert caller.told[-1].room == 1
        assert caller.told[-1].load_s > 0
        for name in "bc":
            await caller.answer(caller.ask(name))
        assert [name for head in caller.told for name in head.gone] == ["a"]
        late = ModelCaller()
        await late.connect(replica)
        await late.until(lambda: late.told)
        assert late.told[0].whole
        assert set(late.told[0].held) == {"b", "c"}
        late.stream.close()

    with_models(test, loaders.Async)


def test_the_details_say_who_is_in_use() -> None:
    """The controller gets each model with its size, its users, and for how long nobody has used it (MX11)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        running = gate("run a")
        slow = caller.ask("a", method="slow")
        await until(lambda: "run a" in DID)
        assert await caller.text(caller.ask("b")) == "b alive"
        await until(lambda: replica.runtime.load == 1)
        a, b = replica.runtime.models().models
        assert (a.id, a.bytes, a.in_use, a.idle_s) == ("a", 0, 1, 0.0)
        assert (b.id, b.in_use) == ("b", 0)
        assert b.idle_s >= 0
        running.set()
        assert await caller.text(slow) == "a alive"

    with_models(test, loaders.Async)


# --- apps --------------------------------------------------------------------------------------------------------


def test_an_apps_calls_wait_for_their_model_and_lose_nothing_meanwhile() -> None:
    """A body that comes while its call waits for a model is there for the app later; a call whose client has gone is
    forgotten, and a WebSocket is accepted once its model is there (MX4)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        opened = gate("a")
        call, left, socket = (open_app(caller, "a", follows) for follows in (BODY, BODY, SOCKET))
        for _ in range(3):
            caller.stream.send(Kind.CHUNK, call, b"", b"x" * 1000)
        caller.stream.send(Kind.CANCEL, left)
        await until(lambda: "begin a" in DID)
        assert not caller.of(call)
        assert replica.runtime.load == 0
        caller.stream.send(Kind.END, call)
        opened.set()
        assert await caller.text(call) == "a alive 3000"
        await caller.until(lambda: any(frame.kind == Kind.END for frame in caller.of(socket)))
        assert unpack(caller.of(socket)[0].head, ReplyHead).status == 101
        assert [bytes(frame.body) for frame in caller.of(socket) if frame.kind == Kind.CHUNK] == [b"a alive"]
        assert not caller.of(left)

    with_models(test, loaders.AppShop)


def test_a_websocket_keeps_its_model() -> None:
    """While a WebSocket is open its model stays, and a request for another one waits (MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        first = open_app(caller, "a", SOCKET)
        await until(lambda: "load a" in DID)
        await caller.until(lambda: caller.of(first))
        assert await caller.text(open_app(caller, "b", WHOLE)) == "b alive 0"
        assert DID[-3:] == ["unload a on pointsman-unload", "begin b", "load b"]

    with_models(test, loaders.AppShop)


# --- the end -----------------------------------------------------------------------------------------------------


@BOTH
def test_all_models_are_unloaded_once_when_the_replica_ends(code: type) -> None:
    """At shutdown each model is unloaded once, off the loop, after the last request (MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        for name in "ab":
            await caller.answer(caller.ask(name))
        await replica.runtime.drain()
        await replica.runtime.close()
        unloads = sorted(line for line in DID if "unload" in line)
        assert unloads == ["unload a on pointsman-unload", "unload b on pointsman-unload"]

    with_models(test, code)


def test_a_drain_finishes_what_loads_and_sends_back_what_waits_for_room() -> None:
    """A call whose model is being loaded is answered; one that waits for a place is placed elsewhere, and so is whoever
    comes now (MX4)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        opened = gate("a")
        loading, waits = caller.ask("a"), caller.ask("b")
        await until(lambda: "begin a" in DID)
        drain = asyncio.ensure_future(replica.runtime.drain())
        again = asyncio.ensure_future(replica.runtime.drain())
        refused = [await caller.answer(waits), await caller.answer(caller.ask(method="plain"))]
        assert [unpack(frame.head, RefuseHead).reason for frame in refused] == [Reason.DRAINING] * 2
        assert not drain.done()
        opened.set()
        assert await caller.text(loading) == "a alive"
        await asyncio.gather(drain, again)

    with_models(test, loaders.One)


def test_a_reconfigure_sends_back_the_calls_that_wait() -> None:
    """Where other replicas take calls, those that wait for a model are placed there; the load goes on (MX4)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        opened = gate("a")
        waits = caller.ask("a")
        await until(lambda: "begin a" in DID)
        await replica.runtime.reconfigure(pickle.dumps({}), timeout_s=10, others=True)
        assert unpack((await caller.answer(waits)).head, RefuseHead).reason is Reason.RECONFIGURING
        opened.set()
        assert await caller.text(caller.ask("a")) == "a alive"
        assert DID == ["begin a", "load a"]

    with_models(test, loaders.Reconfigured)


def test_models_are_unloaded_also_where_close_raises() -> None:
    """An error in the user's ``close`` keeps no model from being unloaded (MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        assert await caller.text(caller.ask("a")) == "a alive"
        with pytest.raises(RuntimeError, match="close failed"):
            await replica.runtime.close()
        assert "unload a on pointsman-unload" in DID

    with_models(test, loaders.Reconfigured)


# --- with routers ------------------------------------------------------------------------------------------------


@BOTH
def test_routers_and_replicas_agree(code: type) -> None:
    """Two routers send 300 calls for seven models to two replicas with two places each: each call is answered by its
    own model, alive, and at the end all are idle (MX5, MX7, MX8)."""

    async def main() -> None:
        async with MemoryReplica(code) as one, MemoryReplica(code) as two:
            options = {"multiplexed": True, "one_at_a_time": code is loaders.Sync}
            async with routed(one, two, **options) as first, routed(one, two, **options) as second:
                chance = random.Random(1)
                names = chance.choices("abcdefg", weights=[64, 32, 16, 8, 4, 2, 1], k=300)
                calls = [new_call(model_id=name, timeout_s=30.0) for name in names]
                for number, call in enumerate(calls):
                    (first, second)[number % 2].submit(call)
                    if number % 20 == 0:
                        await asyncio.sleep(0.001)
                replies = await asyncio.gather(*(call.future for call in calls))
                assert [bytes(reply.body).decode() for reply in replies] == [f"{name} alive" for name in names]
                for replica in (one, two):
                    host_of(replica).validate()
                    await until_quiet(replica)

    run(main())


class Noted(MemoryReplica):
    """Notes which calls have begun, as real ones do."""

    def __init__(self, address: Path) -> None:
        super().__init__(loaders.Async)
        self.ref = msgspec.structs.replace(self.ref, address=str(address))

    async def __aenter__(self) -> MemoryReplica:
        started = StartedLedger(StartedCalls(path_of(self.ref.address)))
        self._runtime = runtime = Runtime(self._config, started=started)
        self._open.enter_context(real_time())
        await runtime.load_code(self._code, self._traits)
        self.listen(runtime)
        return self


def test_calls_whose_replica_dies_while_they_wait_are_placed_elsewhere(tmp_path: Path) -> None:
    """A call that waits for its model has not begun: where its replica is killed, another one loads the model and
    answers, also a call that may not be repeated (MX4)."""

    async def main() -> None:
        opened = gate("a")
        one, two = Noted(tmp_path / "1"), Noted(tmp_path / "2")
        async with one, two, routed(one, two, multiplexed=True) as router:
            call = new_call(model_id="a", timeout_s=30.0)
            router.submit(call)
            await until(lambda: DID == ["begin a"])
            (one if host_of(one).ids() else two).die()
            await until(lambda: DID == ["begin a", "begin a"])
            opened.set()
            assert bytes((await call.future).body) == b"a alive"  # type: ignore[misc,union-attr]
            await until(lambda: DID.count("load a") == 2)

    run(main())


# --- a client without processes ----------------------------------------------------------------------------------


@BOTH
def test_a_test_client_asks_for_models(code: type) -> None:
    """A user's own test names models by the header, gets the loader's exception, and finds all unloaded (MX3, MX8)."""
    with TestClient(code) as client:
        for name in "abca":
            assert client.post("/", headers={"serve_multiplexed_model_id": name}).text == f"{name} alive"
        BROKEN["bad"] = OSError("disk on fire")
        with pytest.raises(OSError, match="disk on fire"):
            client.post("/", headers={"serve-multiplexed-model-id": "bad"})
    assert sorted(line[:8] for line in DID if "unload" in line) == ["unload a", "unload a", "unload b", "unload c"]


# --- loaders in other places -------------------------------------------------------------------------------------


def test_a_constructor_may_load_a_model() -> None:
    """A model that the constructor has asked for is there for calls (MX1)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        assert await caller.text(caller.ask()) == "first alive"
        assert [model.id for model in replica.runtime.models().models] == ["first"]

    with_models(test, loaders.Warm)


def test_a_loader_may_be_a_plain_function() -> None:
    """A function backend with a function that loads: its models are kept, shown, and unloaded at the end, too (MX1,
    MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        assert await caller.text(caller.ask("a")) == "a alive"
        assert await caller.text(caller.ask()) == "default alive"
        await until(lambda: [model.id for model in replica.runtime.models().models] == ["default"])
        await replica.runtime.close()
        assert [line for line in DID if "unload" in line] == [
            "unload a on pointsman-unload",
            "unload default on pointsman-unload",
        ]

    with_models(test, loaders.function)


def frames_of(caller: ModelCaller, kind: Kind) -> list[Frame]:
    return [frame for frame in caller.frames if frame.kind == kind]


def test_the_load_that_replies_report_leaves_out_who_waits() -> None:
    """A reply says how many calls run or wait here, and calls that wait for a model are not among them (MX4)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        opened = gate("a")
        waits = caller.ask("a")
        await until(lambda: "begin a" in DID)
        reply = await caller.answer(caller.ask(method="plain"))
        assert unpack(reply.head, ReplyHead).load == 0
        opened.set()
        await caller.answer(waits)
        assert len(frames_of(caller, Kind.REPLY)) == 2

    with_models(test, loaders.Async)
