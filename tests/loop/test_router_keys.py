"""routing: keys, pins, and policies of one's own."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.model import CustomPolicy, Pins, RoutingTable
from pointsman.policy.rendezvous import Rendezvous
from pointsman.policy.traffic import CallInfo, TrafficSplit
from pointsman.testing import ScriptedReplica, new_call, run, settle
from pointsman.wire.messages import unpack
from tests.loop.routers import FIVE, ids, pinned, several, splitting, submitted, table_for


class TakeTurns:
    """A user's own policy: one backend after the other."""

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        tags = sorted(split.weights)
        return tags[call.number % len(tags)]


def test_a_key_stays_with_its_backend() -> None:
    """Five backends at 0.2, twenty users with five requests: everyone has one backend, in each router (SA1, SA3)."""

    async def main() -> None:
        replicas = several("vwxyz")
        table = table_for(1, replicas, FIVE)
        async with splitting(table, 0.1) as one, splitting(table, 0.9) as other:
            users = [f"user {number}" for number in range(20)]
            for router in (one, other):
                for user in users * 5:
                    router.submit(new_call("e", shard_key=user, request_id=user))
            await settle()
            homes = {user: {tag for tag, replica in replicas.items() if user in ids(replica)} for user in users}
            owner = Rendezvous("e", FIVE).owner
            assert homes == {user: {owner(user)} for user in users}
            assert sum(len(replica.arrived) for replica in replicas.values()) == 200
            assert len({owner(user) for user in users}) > 1

    run(main())


def test_a_pin_holds_from_the_next_table_on() -> None:
    """A pinned user is sent to the pinned backend, weight or not, and back home when the pin is gone (SA1, SA8)."""

    async def main() -> None:
        replicas = several("abc")
        weights = {"a": 0.5, "b": 0.5}
        async with splitting(table_for(1, replicas, weights)) as router:
            home = Rendezvous("e", weights).owner("alice")
            for version, pins in ((2, {"alice": "c"}), (3, {"alice": "c", "bob": "a"}), (4, {})):
                router.submit(new_call("e", shard_key="alice", request_id=f"before {version}"))
                router.apply(pinned(table_for(version, replicas, weights), **pins))
            router.submit(new_call("e", shard_key="alice", request_id="last"))
            await settle()
            assert ids(replicas["c"]) == ["before 3", "before 4"]
            assert ids(replicas[home]) == ["before 2", "last"]

    run(main())


def test_pins_are_unpacked_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten thousand pinned users, a new split or a new replica does not stop requests for the time that it takes
    to read all pins again (G8)."""

    async def main() -> None:
        unpacked: list[bytes] = []

        def noted(data: bytes, kind: type[Pins]) -> Pins:
            unpacked.append(data)
            return unpack(data, kind)

        monkeypatch.setattr("pointsman.routing.router.unpack", noted)
        replicas = several("abc")
        async with splitting(pinned(table_for(1, replicas, {"a": 1.0}), alice="c")) as router:
            router.apply(pinned(table_for(2, replicas, {"b": 1.0}), alice="c"))
            replicas["b"] = ScriptedReplica("b")
            router.apply(pinned(table_for(3, replicas, {"b": 1.0}), alice="c"))
            await submitted(router, 1, endpoint="e", shard_key="alice")
            assert (len(unpacked), len(replicas["c"].arrived)) == (1, 1)
            router.apply(pinned(table_for(4, replicas, {"b": 1.0}), alice="a"))
            router.apply(table_for(5, replicas, {"b": 1.0}))
            router.apply(table_for(6, replicas, {"c": 1.0}))
            await submitted(router, 1, endpoint="e", shard_key="alice")
            assert (len(unpacked), len(replicas["c"].arrived)) == (2, 2)

    run(main())


def test_a_call_knows_its_policy() -> None:
    """A call carries backend and version of the policy that placed it, so that answers can name both (SA2)."""

    async def main() -> None:
        replicas = several("ab")
        async with splitting(table_for(7, replicas, {"a": 1.0})) as router:
            (first,) = await submitted(router, 1, endpoint="e")
            router.apply(table_for(9, replicas, {"b": 1.0}))
            (second,) = await submitted(router, 1, endpoint="e")
            assert [(call.backend, call.policy_version) for call in (first, second)] == [("a", 7), ("b", 9)]

    run(main())


def test_other_changes_leave_a_policy_at_work() -> None:
    """A policy's count of calls goes on when a replica comes or another endpoint changes, and begins anew with it."""

    async def main() -> None:
        def custom(version: int, policy_version: int) -> RoutingTable:
            table = table_for(version, replicas, {"a": 0.5, "b": 0.5})
            spec = table.endpoints["e"]
            policy = msgspec.structs.replace(
                spec.policy, version=policy_version, custom=CustomPolicy(f"{__name__}:TakeTurns")
            )
            endpoints = {"e": msgspec.structs.replace(spec, policy=policy)}
            return msgspec.structs.replace(table, endpoints=endpoints)

        replicas = several("ab")
        async with splitting(custom(1, 1)) as router:
            chosen = [call.backend for call in await submitted(router, 3, endpoint="e")]
            replicas["b"] = ScriptedReplica("b")
            router.apply(custom(2, 1))
            chosen += [call.backend for call in await submitted(router, 2, endpoint="e")]
            assert chosen == ["a", "b", "a", "b", "a"]
            router.apply(custom(3, 3))
            assert [call.backend for call in await submitted(router, 1, endpoint="e")] == ["a"]
            router.apply(pinned(custom(4, 3), alice="b"))
            assert [call.backend for call in await submitted(router, 1, endpoint="e")] == ["a"]

    run(main())
