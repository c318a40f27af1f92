"""Many models in one replica: calls that wait for theirs, loads, evictions and ends, as a router sees them."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from pointsman.incoming import CODEC_HTTP, CODEC_OBJECT, RequestHead
from pointsman.model import Reason, ReplicaConfig
from pointsman.testing import MemoryReplica, run
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import CallHead, CreditHead, FailureHead, RefuseHead, ReplyHead, pack, unpack
from pointsman.wire.scaling import ModelsHead
from tests.loop import loaders
from tests.loop.loaders import BROKEN, DID, SIZES, THREADS, fresh_loaders, gate
from tests.loop.test_runtime import Caller

__all__ = ["fresh_loaders"]


class ModelCaller(Caller):
    """A router's end of a connection, whose calls name models."""

    def ask(self, model_id: str = "", *, method: str = "", body: str = "1", budget_ms: int = 60_000) -> int:
        self._next += 1
        request = RequestHead("b", CODEC_HTTP, method, "POST", b"/", request_id=f"r{self._next}", model_id=model_id)
        self.stream.send(Kind.CALL, self._next, pack(CallHead(request, budget_ms)), body.encode())
        return self._next

    async def text(self, call_id: int) -> str:
        frame = await self.answer(call_id)
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


def _host(replica: MemoryReplica) -> Any:
    assert replica.runtime._models is not None
    return replica.runtime._models._host


async def until_quiet(replica: MemoryReplica) -> None:
    """After each test no model is in use, no slot taken, and the cache's state is in order."""
    models = replica.runtime._models
    if models is not None:
        models._host.validate()
        await until(lambda: not any(model.in_use for model in models._host.models()))
    assert replica.runtime.load == 0


BOTH = pytest.mark.parametrize("code", [loaders.Sync, loaders.Async], ids=["sync", "async"])


# --- waiting and loading -----------------------------------------------------------------------------------------


@BOTH
def test_calls_wait_for_their_model_and_others_pass(code: type) -> None:
    """While a model loads for as long as it likes, calls that name none or another one are answered; a loader that
    blocks blocks no others, not even one that is ``async def`` (MX4)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        slow = gate("slow")
        waits = caller.ask("slow")
        await until(lambda: "begin slow" in DID)
        assert await caller.text(caller.ask(method="plain")) == "plain "
        assert await caller.text(caller.ask("quick")) == "quick alive"
        assert not caller.of(waits)
        slow.set()
        assert await caller.text(waits) == "slow alive"
        assert THREADS["slow"] == THREADS["quick"] == "pointsman-load"

    with_models(test, code)


@BOTH
def test_models_load_at_the_same_time(code: type) -> None:
    """Two models that are wanted at once begin to load at once (MX4)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        gates = [gate("a"), gate("b")]
        calls = [caller.ask("a"), caller.ask("b")]
        await until(lambda: {"begin a", "begin b"} <= set(DID))
        for opened in gates:
            opened.set()
        assert await caller.texts(*calls) == ["a alive", "b alive"]

    with_models(test, code)


@BOTH
def test_a_model_is_loaded_once_for_all_who_wait(code: type) -> None:
    """Ten calls for a cold model cause one load, and later ones none (MX5)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        opened = gate("a")
        calls = [caller.ask("a") for _ in range(10)]
        await until(lambda: "begin a" in DID)
        opened.set()
        assert await caller.texts(*calls) == ["a alive"] * 10
        assert await caller.text(caller.ask("a")) == "a alive"
        assert DID == ["begin a", "load a"]

    with_models(test, code)


def test_calls_that_wait_take_no_slot_and_begin_as_slots_are_free() -> None:
    """With ``max_concurrent_queries=1``, five calls wait for a model and another call passes; then they run one at a
    time, before calls that come later (MX4)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        opened, running = gate("a"), gate("run a")
        calls = [caller.ask("a", method="slow") for _ in range(5)]
        await until(lambda: "begin a" in DID)
        assert replica.runtime.load == 0
        assert await caller.text(caller.ask(method="plain")) == "plain "
        opened.set()
        await until(lambda: "run a" in DID)
        assert replica.runtime.load == 1
        refused = await caller.answer(caller.ask(method="plain"))
        assert unpack(refused.head, RefuseHead).reason is Reason.QUEUE_FULL
        running.set()
        assert await caller.texts(*calls) == ["a alive"] * 5

    with_models(test, loaders.Async, max_concurrent_queries=1)


def test_a_call_that_names_a_model_which_its_method_does_not_use_gets_its_id() -> None:
    """The id is there for every method, and empty for calls that name none (MX3)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        assert await caller.text(caller.ask("a", method="plain")) == "plain a"
        assert await caller.text(caller.ask(method="plain")) == "plain "

    with_models(test, loaders.Async)


def test_a_loader_is_no_method_that_callers_can_name() -> None:
    """A client that names the loader as the method is told that there is none such (MX1)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        assert (await caller.text(caller.ask(method="model"))).startswith("CallRejectedError")
        head = CallHead(RequestHead("b", CODEC_OBJECT, "model"), 60_000)
        caller.stream.send(Kind.CALL, 99, pack(head), pickle.dumps(("a", {})))
        assert await caller.text(99) == "CallRejectedError: method 'model' loads models, and is not open to callers"

    with_models(test, loaders.Sync)


# --- limits and eviction -----------------------------------------------------------------------------------------


@BOTH
def test_the_least_recently_used_model_makes_room_and_is_unloaded_once(code: type) -> None:
    """A third model has the one go that was used longest ago, whose ``unload`` runs on a thread of its own (MX7,
    MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        for name in ("a", "b", "a", "c"):
            assert await caller.text(caller.ask(name)) == f"{name} alive"
        assert [line for line in DID if "unload" in line] == ["unload b on pointsman-unload"]
        assert {model.id for model in _host(replica).models()} == {"a", "c"}

    with_models(test, code)


def test_a_model_that_streams_is_not_evicted_until_the_stream_has_ended() -> None:
    """A call for another model waits while a stream has the only place, and is answered after the stream's last chunk;
    each chunk was made with a live model (MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        stream = caller.ask("a", method="values", body="40")
        await caller.until(lambda: len(caller.of(stream)) > 10)
        waits = caller.ask("b")
        assert await caller.text(caller.ask(method="plain")) == "plain "
        assert not caller.of(waits)
        assert "unload a on pointsman-unload" not in DID
        caller.stream.send(Kind.CREDIT, stream, pack(CreditHead(100)))
        assert await caller.text(waits) == "b alive"
        chunks = [bytes(frame.body).decode() for frame in caller.of(stream) if frame.kind == Kind.CHUNK]
        assert chunks == [f"a alive {number} " for number in range(40)]
        assert DID.index("unload a on pointsman-unload") < DID.index("begin b")

    with_models(test, loaders.One)


def test_a_stream_of_sync_code_keeps_its_model() -> None:
    """The same where the thread of sync code makes the chunks: two other models load meanwhile, and take the other
    place in turn (MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        stream = caller.ask("a", method="values", body="40")
        await caller.until(lambda: len(caller.of(stream)) > 10)
        others = [caller.ask("b"), caller.ask("c")]
        await until(lambda: "load b" in DID)
        caller.stream.send(Kind.CREDIT, stream, pack(CreditHead(100)))
        assert await caller.texts(*others) == ["b alive", "c alive"]
        assert all("dead" not in bytes(frame.body).decode() for frame in caller.of(stream))

    with_models(test, loaders.Sync)


def test_a_call_keeps_each_model_that_it_asks_for() -> None:
    """A call that uses two models has both until its end; one that needs a third meanwhile waits (MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        assert await caller.text(caller.ask(method="named", body="a b a")) == "a alive b alive a alive"
        running = gate("run a")
        slow = caller.ask("a", method="slow")
        await until(lambda: "run a" in DID)
        assert await caller.text(caller.ask(method="named", body="c")) == "c alive"
        assert [line for line in DID if "unload" in line] == ["unload b on pointsman-unload"]
        running.set()
        assert await caller.text(slow) == "a alive"

    with_models(test, loaders.Async)


def test_a_call_that_asks_for_too_many_models_ends_at_its_deadline() -> None:
    """With room for two, a call that wants three waits for itself, and is told so at its deadline; the others go on
    (MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        greedy = caller.ask(method="named", body="a b c", budget_ms=300)
        failure = unpack((await caller.answer(greedy)).head, FailureHead)
        assert failure.reason is Reason.DEADLINE
        assert "model 'c' was not loaded by the deadline" in failure.text
        assert await caller.text(caller.ask("c")) == "c alive"

    with_models(test, loaders.Async)


def test_a_sync_call_waits_for_another_model_until_its_deadline() -> None:
    """The same on the thread of sync code, which is free again afterwards (MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        opened = gate("b")
        late = caller.ask("a", method="named", body="b", budget_ms=200)
        assert unpack((await caller.answer(late)).head, FailureHead).reason is Reason.DEADLINE
        opened.set()
        assert await caller.text(caller.ask("b")) == "b alive"

    with_models(test, loaders.Sync)


def test_room_is_there_once_the_model_before_is_unloaded() -> None:
    """While an ``unload`` takes its time, the next model waits: memory never has more than there may be (MX7)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        assert await caller.text(caller.ask("a")) == "a alive"
        leaving = gate("unload a")
        waits = caller.ask("b")
        await until(lambda: "unload a on pointsman-unload" in DID)
        assert await caller.text(caller.ask(method="plain")) == "plain "
        assert "begin b" not in DID
        leaving.set()
        assert await caller.text(waits) == "b alive"

    with_models(test, loaders.One)


def test_sizes_are_asked_first_and_a_failing_size_costs_nothing() -> None:
    """As many go as the new model's size needs; where ``size_of`` raises, its callers get that, and nothing is loaded
    or evicted (MX7, MX9)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        SIZES.update(a=4, b=4, c=6, odd=ValueError("no such file"), none="4", whale=11)
        for name in "ab":
            assert await caller.text(caller.ask(name)) == f"{name} alive"
        assert await caller.text(caller.ask("odd")) == "ValueError: no such file"
        assert (await caller.text(caller.ask("none"))).startswith("TypeError")
        assert (await caller.text(caller.ask("whale"))).startswith("ModelTooLargeError: model 'whale' takes 11 bytes")
        assert {model.id for model in _host(replica).models()} == {"a", "b"}
        assert await caller.text(caller.ask("c")) == "c alive"
        assert {(model.id, model.size) for model in _host(replica).models()} == {("b", 4), ("c", 6)}
        assert not {"begin odd", "begin none", "begin whale"} & set(DID)

    with_models(test, loaders.Sized)


# --- failures ----------------------------------------------------------------------------------------------------


@BOTH
def test_a_failed_load_fails_those_who_wait_for_it_only(code: type) -> None:
    """Both who wait for a broken model get its exception with the loader's traceback, whoever comes in the next second
    gets it without another try, and other models work (MX9)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        BROKEN["bad"] = OSError("disk on fire")
        opened = gate("bad")
        calls = [caller.ask("bad"), caller.ask("bad")]
        good = caller.ask("good")
        assert await caller.text(good) == "good alive"
        opened.set()
        assert await caller.texts(*calls) == ["OSError: disk on fire"] * 2
        assert "in load" in unpack(caller.of(calls[0])[0].head, FailureHead).traceback
        assert await caller.text(caller.ask("bad")) == "OSError: disk on fire"
        assert DID.count("begin bad") == 1

    with_models(test, code)


def test_a_loader_may_exit_without_ending_the_replica() -> None:
    """A loader that calls ``sys.exit`` fails its callers, and the replica serves on (MX9)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        BROKEN["bad"] = SystemExit(3)
        wrapped = "RuntimeError: the loader has raised SystemExit: 3"
        assert await caller.text(caller.ask("bad")) == wrapped
        assert await caller.text(caller.ask(method="named", body="bad")) == wrapped
        assert await caller.text(caller.ask("good")) == "good alive"

    with_models(test, loaders.Async)


def test_callers_that_leave_while_they_wait_are_forgotten() -> None:
    """A call that was cancelled, and all of a router that has gone, begin nothing; a load that has begun goes on, for
    whoever wants it next (MX8)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        opened, _ = gate("a"), gate("never")
        other = ModelCaller()
        await other.connect(replica)
        left = caller.ask("a", method="slow")
        other.ask("a", method="slow")
        other.ask("never", method="slow")
        await until(lambda: "begin a" in DID)
        caller.stream.send(Kind.CANCEL, left)
        other.stream.close()
        await until(lambda: len(replica.runtime._ledger.connections) == 1)
        await caller.answer(caller.ask(method="plain"))
        gate("run a").set()
        opened.set()
        assert await caller.text(caller.ask("a")) == "a alive"
        assert [line for line in DID if line.startswith("run")] == []
        assert not caller.of(left)

    with_models(test, loaders.Async)


# --- batches -----------------------------------------------------------------------------------------------------


def test_a_batch_has_calls_of_one_model_only() -> None:
    """Twelve calls that name three models make batches that each know their one model (MX10)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        calls = [caller.ask(name) for _ in range(4) for name in "abc"]
        texts = await caller.texts(*calls)
        assert texts == ["a alive of 4", "b alive of 4", "c alive of 4"] * 4

    with_models(test, loaders.Batching, max_batch_size=4, batch_wait_timeout_s=30.0)


def test_a_batch_whose_callers_have_all_gone_keeps_its_model() -> None:
    """A batch runs on though its callers have cancelled; its model stays until it has ended (MX8, MX10)."""

    async def test(replica: MemoryReplica, caller: ModelCaller) -> None:
        running = gate("run a")
        calls = [caller.ask("a"), caller.ask("a")]
        await until(lambda: "run a of 2" in DID)
        for call in calls:
            caller.stream.send(Kind.CANCEL, call)
        waits = [caller.ask("b"), caller.ask("b")]
        await until(lambda: replica.runtime.load == 0)
        assert not any("unload" in line for line in DID)
        running.set()
        assert await caller.texts(*waits) == ["b alive"] * 2
        assert "unload a on pointsman-unload" in DID

    with_models(test, loaders.AsyncBatching, max_batch_size=2, batch_wait_timeout_s=30.0)


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


def frames_of(caller: Caller, kind: Kind) -> list[Frame]:
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
