"""Many models in one replica: calls that wait for theirs, loads, evictions and failures, as a router sees them."""

from __future__ import annotations

import pickle

from pointsman.incoming import CODEC_OBJECT, RequestHead
from pointsman.model import Reason
from pointsman.testing import MemoryReplica
from pointsman.wire.frames import Kind
from pointsman.wire.messages import (
    CallHead,
    CreditHead,
    FailureHead,
    RefuseHead,
    pack,
    unpack,
)
from tests.loop import loaders
from tests.loop.loaders import BROKEN, DID, SIZES, THREADS, fresh_loaders, gate
from tests.loop.model_callers import BOTH, ModelCaller, host_of, until, with_models

__all__ = ["fresh_loaders"]


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
        assert {model.id for model in host_of(replica).models()} == {"a", "c"}

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
        SIZES.update(a=4, b=4, c=6, odd=ValueError("no such file"), none="4", nan=float("nan"), less=-1, all=2**64)
        SIZES.update(whale=11)
        for name in "ab":
            assert await caller.text(caller.ask(name)) == f"{name} alive"
        assert await caller.text(caller.ask("odd")) == "ValueError: no such file"
        assert (await caller.text(caller.ask("none"))).startswith("TypeError: size_of('none') gave '4', and a size is")
        assert (await caller.text(caller.ask("nan"))).startswith("TypeError: size_of('nan') gave nan")
        assert (await caller.text(caller.ask("less"))).startswith("ValueError: size_of('less') gave -1")
        assert (await caller.text(caller.ask("all"))).startswith("ValueError: size_of('all') gave 18446744073709551616")
        assert (await caller.text(caller.ask("whale"))).startswith("ModelTooLargeError: model 'whale' takes 11 bytes")
        assert {model.id for model in host_of(replica).models()} == {"a", "b"}
        assert await caller.text(caller.ask("c")) == "c alive"
        assert {(model.id, model.size) for model in host_of(replica).models()} == {("b", 4), ("c", 6)}
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
