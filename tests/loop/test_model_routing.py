"""Routers that place calls which name models, over replicas that tell what they hold."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pointsman.exceptions import BackpressureError, DeadlineExceededError, ReplicaDiedError
from pointsman.incoming import RequestHead
from pointsman.routing.appcalls import AppCall
from pointsman.routing.call import Call
from pointsman.routing.multiplexing import ModelPool
from pointsman.routing.pool import Pool
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, ScriptedReplica, new_call, run, settle, table_of
from pointsman.wire.messages import SOCKET, AppPart
from pointsman.wire.started import StartedCalls, path_of
from pointsman.wire.stream import Stream
from tests.loop.counted import Told, counting, scaling
from tests.loop.routers import ids, routed, submitted


def named(*models: str, **fields: Any) -> list[Call]:
    return [new_call(model_id=model, request_id=f"{model}{place}", **fields) for place, model in enumerate(models)]


async def sent(router: Router, *models: str, **fields: Any) -> list[Call]:
    calls = named(*models, **fields)
    for call in calls:
        router.submit(call)
    await settle()
    return calls


def pool_of(router: Router) -> Pool:
    return router._pools["b"]


def waiting(router: Router) -> int:
    return router.statistics()[0].waiting


class Silent(ScriptedReplica):
    """Of a version that loads no models."""

    def stream_ready(self, stream: Stream) -> None:
        self._connected.append(stream)


def test_calls_of_all_routers_meet_on_one_replica() -> None:
    """Calls for a cold model that come at once through three routers all go to one replica, which loads it once, though
    others are idle; a second model goes by its own id (MX5)."""

    async def main() -> None:
        replicas = [ScriptedReplica() for _ in range(4)]
        table = table_of(1, {"b": replicas}, multiplexed=True, max_concurrent_queries=5)
        routers = [Router(instance=INSTANCE) for _ in range(3)]
        for router in routers:
            router.apply(table)
        await settle()
        for router in routers:
            for call in named("m", "m", "m", "m"):
                router.submit(call)
        await settle()
        assert sorted(len(replica.arrived) for replica in replicas) == [0, 0, 0, 12]
        for router in routers:
            for call in named(*(f"model {number}" for number in range(40))):
                router.submit(call)
        await settle()
        counts = [len(replica.arrived) for replica in replicas]
        assert all(count % 3 == 0 and count > 6 for count in counts), counts
        for router in routers:
            router.validate()
            await router.aclose()

    run(main())


def test_a_new_router_knows_what_is_held_before_it_places_calls() -> None:
    """The first calls of a script, or of an ingress that has restarted, go to the replica that holds their model, not
    to the one connected first; a replica that cannot be reached, or tells of no models, holds nobody up for more
    than a second (MX5, MX6)."""

    async def main() -> None:
        for number in range(4):
            replicas = [ScriptedReplica(held=("m",) if place == number else ()) for place in range(4)]
            router = Router(instance=INSTANCE)
            router.apply(table_of(1, {"b": replicas}, multiplexed=True))
            await sent(router, "m", "m")
            assert len(replicas[number].arrived) == 2
            await router.aclose()
        silent, dead = Silent(), ScriptedReplica()
        dead.die()
        router = Router(instance=INSTANCE)
        router.apply(table_of(1, {"b": [silent, dead]}, multiplexed=True))
        await sent(router, "m")
        await sent(router, "")
        assert [head.request.model_id for head in silent.arrived] == [""]
        await asyncio.sleep(1.1)
        assert [head.request.model_id for head in silent.arrived] == ["", "m"]
        await router.aclose()

    run(main())


def test_a_call_goes_where_its_model_is() -> None:
    """Once a replica has told that it holds a model, calls for it go there, whoever loaded it; when it has made room
    the next call loads it again where it belongs (MX5, MX6)."""

    async def main() -> None:
        replicas = [ScriptedReplica() for _ in range(3)]
        async with routed(*replicas, multiplexed=True) as router:
            [call] = await sent(router, "m")
            home = next(replica for replica in replicas if replica.calls)
            home.reply()
            await settle()
            assert (await call.future).body == b"ok"
            away = next(replica for replica in replicas if replica is not home)
            away.tell(held=("m",), load_s=1.0, room=2)
            await settle()
            await sent(router, "m")
            assert [len(replica.calls) for replica in (home, away)] == [0, 1]
            away.reply()
            away.tell(gone=("m",), load_s=1.0, room=3)
            await settle()
            await sent(router, "m")
            assert [len(replica.calls) for replica in (home, away)] == [1, 0]

    run(main())


def test_a_replica_that_loads_takes_other_calls() -> None:
    """Calls that wait in a replica for their model take none of its places: others are placed there as if they were not
    there, and once the model is loaded they count (MX4)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, multiplexed=True, max_concurrent_queries=2) as router:
            await sent(router, "m", "m")
            await submitted(router, 3)
            assert len(replica.calls) == 4
            assert waiting(router) == 1
            assert pool_of(router).inflight == 4
            for call_id in list(replica.calls)[2:]:
                replica.reply(call_id)
            await settle()
            assert len(replica.calls) == 3, "the third call has begun"
            replica.tell(held=("m",), load_s=1.0, room=2)
            await settle()
            await submitted(router, 1)
            assert len(replica.calls) == 3, "two calls for the model and one more run there now"
            replica.reply()
            await settle()
            replica.reply()
            await settle()
            assert len(replica.calls) == 2

    run(main())


def test_a_busy_model_holds_nobody_else_up() -> None:
    """While the only replica with a model is busy with it, calls for other models pass those that wait for it, even if
    as many wait as may (MX6, BC5)."""

    async def main() -> None:
        busy, idle = ScriptedReplica(), ScriptedReplica()
        async with routed(busy, idle, multiplexed=True, max_concurrent_queries=2, max_queued_queries=3) as router:
            busy.tell(held=("hot",), load_s=60.0, room=2)
            idle.tell(held=("cool",), load_s=60.0, room=2)
            await settle()
            await sent(router, *["hot"] * 5)
            assert (len(busy.calls), waiting(router)) == (2, 3)
            with pytest.raises(BackpressureError):
                await sent(router, "hot")
            await sent(router, "cool")
            assert len(idle.calls) == 1
            await submitted(router, 1)
            assert len(idle.calls) == 2
            for count in (2, 1, 0):
                busy.reply()
                await settle()
                assert (len(busy.calls), waiting(router)) == (2, count)
            assert ids(busy) == [f"hot{place}" for place in range(5)]

    run(main())


def test_waiting_longer_than_a_load_loads_elsewhere() -> None:
    """A call waits for the busy holder of its model as long as a load takes, and not longer where another replica has a
    free place: that loads the model, too, and takes calls for it once it has it (MX6)."""

    async def main() -> None:
        busy, idle = ScriptedReplica(), ScriptedReplica()
        async with routed(busy, idle, multiplexed=True, max_concurrent_queries=2) as router:
            busy.tell(held=("hot",), load_s=3.0, room=2)
            await settle()
            await sent(router, *["hot"] * 6)
            await asyncio.sleep(2.9)
            assert (len(busy.calls), len(idle.calls)) == (2, 0)
            await asyncio.sleep(0.2)
            assert (len(busy.calls), len(idle.calls), waiting(router)) == (2, 1, 3)
            idle.tell(loading={"hot": 1}, load_s=3.0, room=2)
            await asyncio.sleep(2.9)
            assert len(idle.calls) == 1, "what it loads is waited for"
            idle.tell(held=("hot",), load_s=3.0, room=2)
            await settle()
            assert (len(busy.calls), len(idle.calls), waiting(router)) == (2, 2, 2)

    run(main())


def test_a_wait_shorter_than_a_load_loads_nothing() -> None:
    """A model whose calls always wait a little, and never as long as a load takes, stays on its one replica (MX6)."""

    async def main() -> None:
        busy, idle = ScriptedReplica(), ScriptedReplica()
        async with routed(busy, idle, multiplexed=True, max_concurrent_queries=1) as router:
            busy.tell(held=("hot",), load_s=3.0, room=2)
            await settle()
            await sent(router, *["hot"] * 3)
            for _ in range(20):
                await asyncio.sleep(1.4)
                busy.reply()
                await sent(router, "hot")
            assert len(idle.arrived) == 0
            assert waiting(router) == 2

    run(main())


def test_calls_wait_for_a_model_within_their_deadline() -> None:
    """A call whose model's holder stays busy fails at its deadline as not started; those behind it move up (MX8)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, multiplexed=True, max_concurrent_queries=1) as router:
            replica.tell(held=("m",), load_s=1.0, room=0)
            await settle()
            await sent(router, "m")
            [late] = await sent(router, "m", timeout_s=2.0)
            [patient] = await sent(router, "m")
            with pytest.raises(DeadlineExceededError) as failed:
                await late.future
            assert not failed.value.started
            replica.reply()
            await settle()
            replica.reply()
            assert (await patient.future).body == b"ok"

    run(main())


def test_calls_for_a_load_that_fails_or_is_given_up() -> None:
    """Calls that wait in a replica for a load are counted there until they fail or are given up; then the next go there
    again (MX9)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, multiplexed=True, max_concurrent_queries=1) as router:
            [first] = await sent(router, "m")
            await sent(router, "m")
            assert (len(replica.calls), waiting(router)) == (1, 1)
            replica.fail()
            await settle()
            assert first.future.exception() is not None
            assert (len(replica.calls), waiting(router)) == (1, 0)
            [second] = list(pool_of(router)._candidates[0]._calls.values())
            router.cancel(second)
            await sent(router, "m")
            assert (len(replica.calls), waiting(router)) == (1, 0)
            [third] = list(pool_of(router)._candidates[0]._calls.values())
            replica.tell(held=("m",), load_s=1.0, room=0)
            await settle()
            replica.reply()
            assert (await third.future).body == b"ok"

    run(main())


def test_a_replica_that_dies_takes_its_models_along() -> None:
    """When the holder of a model dies, calls that it had not begun and those that wait go to another, which loads it
    (MX5, F2)."""

    async def main() -> None:
        replicas = [ScriptedReplica(), ScriptedReplica()]
        async with routed(*replicas, multiplexed=True, max_concurrent_queries=2) as router:
            for replica in replicas:
                replica.tell(room=1, whole=True)
            await settle()
            await sent(router, *["m"] * 3, idempotent=True)
            home = next(replica for replica in replicas if replica.calls)
            other = next(replica for replica in replicas if replica is not home)
            home.tell(held=("m",), load_s=1.0, room=0)
            await settle()
            assert (len(home.calls), waiting(router)) == (2, 1)
            home.die()
            await settle()
            assert (len(other.calls), waiting(router)) == (2, 1), "two wait there for the load, as many as run at once"
            other.tell(held=("m",), load_s=1.0, room=0)
            for _ in range(3):
                await settle()
                other.reply()
            await settle()
            assert waiting(router) == 0

    run(main())


class Noting(ScriptedReplica):
    """Has a file of the calls that have begun, which are none."""

    def __init__(self, address: Path) -> None:
        super().__init__()
        self.ref = msgspec.structs.replace(self.ref, address=str(address))
        self.started = StartedCalls(path_of(str(address)))
        self.listen(self)


def test_a_model_that_ends_its_replicas_does_not_end_all_of_them(tmp_path: Path) -> None:
    """Three replicas die one after the other while a call waits for the same model: its caller is told, calls for it
    are refused for a second, and others reach the fourth replica; once it was loaded it is as any other (MX9, F2)."""

    async def main() -> None:
        replicas = [Noting(tmp_path / str(number)) for number in range(4)]
        async with routed(*replicas, multiplexed=True) as router:
            [call] = await sent(router, "whale")
            for _ in range(3):
                next(replica for replica in replicas if replica.calls).die()
                await settle()
            assert not any(replica.calls for replica in replicas)
            with pytest.raises(ReplicaDiedError, match="while model 'whale' was loaded"):
                await call.future
            [again] = await sent(router, "whale")
            assert isinstance(again.future.exception(), ReplicaDiedError)
            await sent(router, "m")
            [last] = [replica for replica in replicas if replica.calls]
            last.reply()
            await asyncio.sleep(1.1)
            await sent(router, "whale")
            assert len(last.calls) == 1
            last.tell(held=("whale",), load_s=1.0, room=1)
            await settle()
            pool = pool_of(router)
            assert isinstance(pool, ModelPool)
            assert not pool._fatal.deaths

    run(main())


def test_models_of_one_at_a_time_replicas() -> None:
    """Replicas that run calls one at a time take those for the models that they hold, one at a time, and are not asked
    to send back what waits there for a load (MX4, MX6)."""

    async def main() -> None:
        replicas = [ScriptedReplica(), ScriptedReplica()]
        async with routed(*replicas, multiplexed=True, one_at_a_time=True) as router:
            replicas[0].tell(held=("a",), load_s=9.0, room=1)
            replicas[1].tell(held=("b",), load_s=9.0, room=1)
            await settle()
            await sent(router, "a", "a", "b", "b")
            assert [len(replica.calls) for replica in replicas] == [1, 1]
            replicas[0].reply(run_us=100_000)
            replicas[1].reply(run_us=100_000)
            await settle()
            assert [len(replica.calls) for replica in replicas] == [1, 1]
            await sent(router, "cold")
            await asyncio.sleep(1.0)
            assert sum(len(replica.calls) for replica in replicas) == 3
            replicas[0].reply(run_us=100_000)
            replicas[1].reply(run_us=100_000)
            await settle()
            recalls = [replica.recalls for replica in replicas]
            await asyncio.sleep(1.0)
            assert [replica.recalls for replica in replicas] == recalls
            await submitted(router, 2)
            assert [len(replica.calls) for replica in replicas if "cold" not in str(replica.calls)] == [1]

    run(main())


def test_a_backend_begins_to_load_models_by_id() -> None:
    """When a new version of a backend loads models by id, or does so no more, calls that run finish, and those that
    wait are placed anew (MX5)."""

    async def main() -> None:
        old, new, newest = (ScriptedReplica() for _ in range(3))
        async with routed(old, max_concurrent_queries=1) as router:
            [running, queued] = await sent(router, "m", "m")
            router.apply(table_of(2, {"b": [new]}, max_concurrent_queries=1, multiplexed=True))
            await settle()
            assert isinstance(pool_of(router), ModelPool)
            router.validate()
            assert (len(old.calls), len(new.calls)) == (1, 1)
            router.apply(table_of(3, {"b": [newest]}, max_concurrent_queries=1))
            await sent(router, "m")
            assert not isinstance(pool_of(router), ModelPool)
            assert len(newest.calls) == 1
            for replica in (old, new):
                replica.reply()
            for call in (running, queued):
                assert (await call.future).body == b"ok"

    run(main())


def test_a_copy_for_a_shadow_names_the_model() -> None:
    """A mirrored call names the model of the call, and takes half of the places of a holder that also has users (SH4,
    MX3)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica("b"), ScriptedReplica("s")
        table = table_of(
            1, {"b": [primary], "s": [shadow]}, endpoints={"b": {"b": 1.0}}, shadows={"s": 1.0}, multiplexed=True
        )
        router = Router(instance=INSTANCE)
        router.apply(table)
        await settle()
        await sent(router, "m")
        assert [head.request.model_id for head in (*primary.arrived, *shadow.arrived)] == ["m", "m"]
        await router.aclose()

    run(main())


def test_calls_that_wait_for_a_load_are_demand() -> None:
    """Calls that wait in a replica for their model, and those that wait here for its holder, count as calls that are
    there, each once (MX10, AS3)."""

    async def main() -> None:
        replica = ScriptedReplica()
        table = scaling(table_of(1, {"b": [replica]}, multiplexed=True, max_concurrent_queries=2))
        told = Told()
        async with counting(table, told) as router:
            await sent(router, "m", "m", "m")
            await asyncio.sleep(1.0)
            _, counted = told.of("b")[-1]
            assert (counted.waiting, counted.running) == (1, 2)
            assert counted.call_s == pytest.approx(3.0, abs=0.6)
            replica.tell(held=("m",), load_s=1.0, room=2)
            replica.reply()
            await asyncio.sleep(1.0)
            _, counted = told.of("b")[-1]
            assert (counted.waiting, counted.running, counted.ended) == (0, 2, 1)

    run(main())


def socket_for(model: str) -> AppCall:
    loop = asyncio.get_running_loop()
    head = RequestHead("b", model_id=model)
    return AppCall(head, app=AppPart(follows=SOCKET), deadline=loop.time() + 60, future=loop.create_future())


def test_a_socket_goes_where_its_model_is() -> None:
    """A WebSocket that names a model opens at a replica that holds it, even if another has fewer; for a cold model all
    go to the one that is to load it (MX5, MX6)."""

    async def main() -> None:
        replicas = [ScriptedReplica() for _ in range(3)]
        async with routed(*replicas, multiplexed=True) as router:
            replicas[1].tell(held=("m",), load_s=1.0, room=2)
            await settle()
            for _ in range(3):
                router.submit(socket_for("m"))
            await settle()
            assert [len(replica.calls) for replica in replicas] == [0, 3, 0]
            for _ in range(3):
                router.submit(socket_for("cold"))
            await settle()
            assert sorted(len(replica.calls) for replica in replicas) in ([0, 3, 3], [0, 0, 6])
            await submitted(router, 2)
            assert pool_of(router).inflight == 8

    run(main())


def test_a_replica_whose_models_are_all_in_use_gets_no_cold_ones() -> None:
    """While a load waits in a replica since all of its models are in use, calls for other cold models are loaded
    elsewhere; once a model is out of use it loads its share again (MX5, MX8)."""

    async def main() -> None:
        full, other = ScriptedReplica(), ScriptedReplica()
        async with routed(full, other, multiplexed=True) as router:
            for replica in (full, other):
                replica.tell(room=2, load_s=1.0, whole=True)
            full.tell(held=("a", "b"), room=0, load_s=1.0)
            other.tell(held=("c", "d"), room=0, load_s=1.0)
            full.tell(loading={"e": 1}, room=0, load_s=1.0)
            await settle()
            await sent(router, *(f"cold {number}" for number in range(20)))
            assert [len(replica.calls) for replica in (full, other)] == [0, 20]
            full.tell(gone=("a",), room=0, load_s=1.0)
            await settle()
            await sent(router, *(f"other {number}" for number in range(20)))
            assert len(full.calls) > 3
            assert len(full.calls) + len(other.calls) == 40

    run(main())
