"""routing to replicas that run calls of 12.5 to 50 ms one at a time: when one is ahead, and when it comes back."""

from __future__ import annotations

import asyncio

from pointsman.policy.balance import LEAD_S, PATIENCE, STEADY_S
from pointsman.routing.router import Router
from pointsman.testing import ScriptedReplica, run, settle
from tests.loop.routers import ids, send_back, serial, submitted, warmed_up

LATE_S = LEAD_S + 0.002

MEDIUM_US = 20_000
MEDIUM_S = PATIENCE * MEDIUM_US / 1e6


async def crowded(router: Router, *replicas: ScriptedReplica) -> None:
    """Each replica has a call of 20 ms and one ahead, and two calls wait."""
    await warmed_up(router, *replicas, run_us=MEDIUM_US)
    await submitted(router, 4 * len(replicas))
    for replica in replicas:
        replica.reply(run_us=MEDIUM_US)
    await settle()


def test_calls_of_medium_length_are_given_ahead_one_by_one() -> None:
    """While calls wait for all replicas, each has the next one at hand; with fewer, they go to who is free (BC6)."""

    async def main() -> None:
        first, second = ScriptedReplica(), ScriptedReplica()
        async with serial(first, second) as router:
            await warmed_up(router, first, second, run_us=MEDIUM_US)
            await submitted(router, 3)
            assert (len(first.calls), len(second.calls)) == (1, 1)
            first.reply(run_us=MEDIUM_US)
            await settle()
            assert (len(first.calls), len(second.calls)) == (1, 1)
            await submitted(router, 6)
            held = []
            for _ in range(4):
                first.reply(run_us=MEDIUM_US)
                await settle()
                held.append((len(first.calls), len(second.calls)))
            assert held == [(2, 2), (2, 2), (2, 2), (1, 2)]
            assert router.statistics()[0].waiting == 1

    run(main())


def test_one_ahead_comes_back_when_the_running_call_takes_long() -> None:
    """It waits for half as long again as calls take, and then goes where it can begin (BC6)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            await crowded(router, long, other)
            assert (len(long.calls), len(other.calls)) == (2, 2)
            await asyncio.sleep(MEDIUM_S / 2)
            other.reply(run_us=MEDIUM_US)
            await asyncio.sleep(MEDIUM_S / 2 - 0.002)
            assert (long.recalls, other.recalls) == (0, 0)
            await asyncio.sleep(0.004)
            assert (long.recalls, other.recalls) == (1, 0)
            send_back(long)
            await settle()
            while other.calls:
                other.reply(run_us=MEDIUM_US)
                await settle()
            assert ids(long)[-1] in ids(other)

    run(main())


def test_none_is_ahead_for_a_while_after_a_long_call() -> None:
    """Where a call has taken far longer than others the next ones wait for whoever is free (BC6)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with serial(replica) as router:
            await warmed_up(router, replica, run_us=MEDIUM_US)
            await submitted(router, 9)
            held = []
            for after_s, run_us in ((0, 20_000), (0, 40_000), (STEADY_S / 2, 20_000), (STEADY_S / 2, 20_000)):
                await asyncio.sleep(after_s)
                replica.reply(run_us=run_us)
                await settle()
                held.append(len(replica.calls))
            assert held == [2, 1, 1, 2]

    run(main())


def test_one_ahead_goes_to_who_is_idle() -> None:
    """The queue is empty and a replica has nothing to do: what waits behind a call of 20 ms begins there, within
    milliseconds (BC6)."""

    async def main() -> None:
        busy, quick = ScriptedReplica(), ScriptedReplica()
        async with serial(busy, quick) as router:
            await crowded(router, busy, quick)
            await asyncio.sleep(0.001)
            while quick.calls:
                quick.reply(run_us=MEDIUM_US)
                await settle()
            assert len(busy.calls) == 2
            await asyncio.sleep(LATE_S)
            assert busy.recalls == 1
            send_back(busy)
            await settle()
            assert ids(quick)[-1] == ids(busy)[-1]

    run(main())


def test_none_is_ahead_where_others_have_calls() -> None:
    """A replica with calls of another HTTP server goes on with those, and ours wait for whoever is free (BC6)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with serial(replica) as router:
            await warmed_up(router, replica, run_us=MEDIUM_US)
            await submitted(router, 5)
            assert len(replica.calls) == 2
            replica.reply(run_us=MEDIUM_US, load=3)
            await settle()
            assert len(replica.calls) == 1
            replica.reply(run_us=MEDIUM_US, load=1)
            await settle()
            assert len(replica.calls) == 1
            replica.reply(run_us=MEDIUM_US)
            await settle()
            assert len(replica.calls) == 2

    run(main())
