"""routing under faults: refusals, deaths and cuts, and where the calls go."""

from __future__ import annotations

import asyncio

import pytest

from pointsman.exceptions import ReplicaDiedError
from pointsman.model import Reason
from pointsman.testing import ScriptedReplica, run, settle, table_of
from tests.loop.routers import routed, submitted


@pytest.mark.parametrize("reason", [Reason.QUEUE_FULL, Reason.DRAINING, Reason.RECONFIGURING])
def test_a_refused_call_goes_elsewhere(reason: Reason) -> None:
    """A call that a replica sent back as not started is placed at the other one, whatever its method (BC2, G2)."""

    async def main() -> None:
        full, free = ScriptedReplica(), ScriptedReplica()
        async with routed(full, free) as router:
            calls = await submitted(router, 2, http_method="POST")
            full.refuse(reason=reason)
            await settle()
            assert (len(full.calls), len(free.calls)) == (0, 2)
            free.reply()
            free.reply()
            assert [(await call.future).body for call in calls] == [b"ok", b"ok"]

    run(main())


def test_refusals_do_not_use_up_the_tries() -> None:
    """A call that a full replica sends back ten times is still answered in the end (BC2, G2)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            (call,) = await submitted(router, 1)
            for _ in range(10):
                replica.refuse()
                await settle()
                while not replica.calls:
                    await asyncio.sleep(0.001)
            replica.reply()
            assert (await call.future).status == 200
            assert asyncio.get_running_loop().time() < 1

    run(main())


def test_a_replica_that_took_a_new_config_is_asked_again() -> None:
    """With nobody else to go to, calls that were sent back wait for the replica to be done, and keep their order (RC9,
    BC6)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            calls = await submitted(router, 3)
            for call_id in reversed(list(replica.calls)):
                replica.refuse(call_id, reason=Reason.RECONFIGURING)
            await settle()
            assert not replica.calls
            await asyncio.sleep(0.5)
            for _ in calls:
                replica.reply()
            assert [(await call.future).status for call in calls] == [200] * 3
            assert [head.request.request_id for head in replica.arrived] == ["0", "1", "2", "0", "1", "2"]

    run(main())


def test_a_draining_replica_is_not_asked_again() -> None:
    """After one refusal for good, calls wait for another replica instead (DR5)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            (call,) = await submitted(router, 1)
            replica.refuse(reason=Reason.DRAINING)
            await asyncio.sleep(5)
            assert len(replica.arrived) == 1
            other = ScriptedReplica()
            router.apply(table_of(2, {"b": [other]}))
            await settle()
            other.reply()
            assert (await call.future).body == b"ok"

    run(main())


def test_an_idempotent_call_survives_one_death_and_no_more() -> None:
    """A replica dies: a repeatable call is tried once more, and one that kills two replicas is given up (G2, F1)."""

    async def main() -> None:
        replicas = [ScriptedReplica() for _ in range(3)]
        async with routed(*replicas) as router:
            (call,) = await submitted(router, 1, idempotent=True)
            for _ in range(2):
                next(replica for replica in replicas if replica.calls).die()
                await settle()
            with pytest.raises(ReplicaDiedError):
                await call.future
            assert sum(len(replica.arrived) for replica in replicas) == 2

    run(main())


def test_a_call_that_may_not_be_repeated_fails_when_its_replica_dies() -> None:
    """A POST that may have run is not run again; the calls that wait are answered elsewhere (G2, G3)."""

    async def main() -> None:
        dying, other = ScriptedReplica(), ScriptedReplica()
        async with routed(dying, other, max_concurrent_queries=1) as router:
            calls = await submitted(router, 4)
            (lost,) = [int(head.request.request_id) for head in dying.arrived]
            dying.die()
            await settle()
            with pytest.raises(ReplicaDiedError, match="may have run"):
                await calls[lost].future
            for _ in range(3):
                other.reply()
                await settle()
            assert [call.future.exception() is None for call in calls].count(True) == 3

    run(main())


def test_a_replica_that_comes_back_is_used_again() -> None:
    """After a cut the router dials again by itself, and calls that waited meanwhile are answered."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            replica.pipes[0].cut()
            (call,) = await submitted(router, 1)
            assert not replica.calls
            while not replica.calls:
                await asyncio.sleep(0.01)
            replica.reply()
            assert (await call.future).body == b"ok"
            assert asyncio.get_running_loop().time() < 1

    run(main())
