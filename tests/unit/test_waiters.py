"""controller.waiters: a caller is told when its change is in effect; not before, and not later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from pointsman.controller.observed import Failures, Observed
from pointsman.controller.replicas import Phase, Replica, Replicas
from pointsman.controller.state import Desired
from pointsman.controller.waiters import TABLES_S, Situation, StartFailure, Waiter, Waiters
from pointsman.exceptions import BackendStartError
from pointsman.model import (
    Allocation,
    BackendConfigSpec,
    BackendSpec,
    Origin,
    Reason,
    Resources,
    TargetTraits,
)
from pointsman.testing import run
from pointsman.wire.commands import Await, Progress

INGRESS, OTHER_INGRESS, OWN, STRANGER = 1, 2, 3, 4


def waiter(
    *,
    backend: str | None = None,
    gone: bool = False,
    brings_code: bool = False,
    own: int | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Waiter:
    return Waiter(Await("id", 5, backend, gone, None, brings_code), frozenset([own] if own else []), progress)


def at(table: int, *, desired: Desired | None = None, observed: Observed | None = None, **confirmed: int) -> Situation:
    """The newest table, and which one each router has confirmed; ``ingress`` and ``other`` are ingresses."""
    numbers = {"ingress": INGRESS, "other": OTHER_INGRESS, "own": OWN, "stranger": STRANGER}
    versions = {numbers[name]: version for name, version in confirmed.items()}
    observed = replace(observed or Observed(), confirmed=versions, connected=versions)
    return Situation(desired or Desired(), observed, table, frozenset([INGRESS, OTHER_INGRESS]))


def verdicts(waiter: Waiter, *situations: Situation) -> list[bool]:
    """After each situation, whether the caller may go."""
    done = []
    for situation in situations:
        waiter.check(situation)
        done.append(waiter.future.done())
    return done


def in_loop(test: Callable[[], None]) -> None:
    async def main() -> None:
        assert asyncio.get_running_loop()
        test()

    run(main())


def with_backend(replicas: int = 1, *, wanted: int = 1) -> tuple[Desired, Observed]:
    """Backend ``b``, and that many of its replicas ready."""
    spec = BackendSpec("b", 1, 1, "code", Origin("/", ()), TargetTraits(False), BackendConfigSpec(wanted), Resources())
    observed = Observed()
    for number in range(replicas):
        replica = Replica(number, f"b#{number}", "b", 1, Allocation(Resources()), 0.0, Phase.READY)
        replica.config_version = replica.sent_version = 1
        observed.replicas[number] = replica
    return Desired(5, {"b": spec}), observed


def test_a_change_is_in_effect_when_every_ingress_has_it() -> None:
    """A caller waits for the slowest ingress and for its own router, and for no stranger's (CL4)."""

    def test() -> None:
        assert verdicts(
            waiter(own=OWN),
            at(7, ingress=6, other=6, own=6, stranger=0),
            at(7, ingress=7, other=6, own=6, stranger=0),
            at(7, ingress=7, other=7, own=6, stranger=0),
            at(7, ingress=7, other=7, own=7, stranger=0),
        ) == [False, False, False, True]

    in_loop(test)


def test_later_tables_are_not_waited_for() -> None:
    """In a storm of changes a caller goes when the first table with its change is everywhere, not the newest (CL4)."""

    def test() -> None:
        assert verdicts(
            waiter(),
            at(7, ingress=6, other=6),
            at(8, ingress=6, other=6),
            at(9, ingress=8, other=6),
            at(20, ingress=19, other=6),
            at(50, ingress=49, other=7),
        ) == [False, False, False, False, True]

    in_loop(test)


def test_a_change_that_has_no_table_yet_waits_for_one() -> None:
    """While a new controller may publish nothing, nobody is told that a change is in effect (CL4, F8)."""

    def test() -> None:
        assert verdicts(
            waiter(), at(0, ingress=9, other=9), at(0), at(12, ingress=9, other=9), at(13, ingress=12, other=12)
        ) == [False, False, False, True]

    in_loop(test)


def test_ingresses_that_a_new_controller_has_not_heard_of_are_waited_for() -> None:
    """The controller was killed, and one HTTP server is slow to find the new one: it still serves by the table before,
    so that no change is in effect everywhere (CL4, G6, F8)."""

    def test() -> None:
        everywhere = at(7, ingress=7, other=7)
        assert verdicts(
            waiter(),
            everywhere._replace(unsubscribed=frozenset({"0", "1"})),
            everywhere._replace(unsubscribed=frozenset({"1"})),
            everywhere,
        ) == [False, False, True]

    in_loop(test)


def test_routers_that_are_gone_cannot_confirm() -> None:
    """An ingress that has died is not waited for; one that has just come is (CL4, G9)."""

    def test() -> None:
        assert verdicts(waiter(own=OWN), at(7)) == [True]
        assert verdicts(waiter(), at(7, ingress=7, other=0), at(8, ingress=7)) == [False, True]
        assert verdicts(waiter(), at(7, ingress=6), at(8, ingress=7, other=0), at(8, ingress=7, other=8)) == [
            False,
            False,
            True,
        ]

    in_loop(test)


def test_a_backend_s_change_waits_until_its_replicas_are_reached() -> None:
    """Who scales a backend waits until HTTP servers are connected to its new replicas, so that the first calls are
    spread over them; who changes traffic, or removes a backend, has nothing to wait for there (SO1, BC6)."""

    def test() -> None:
        desired, full = with_backend(2, wanted=2)
        using = at(7, desired=desired, observed=full, ingress=7, other=7)
        using = using._replace(observed=replace(using.observed, connected={INGRESS: 7, OTHER_INGRESS: 6}))
        assert verdicts(waiter(backend="b"), using, at(8, desired=desired, observed=full, ingress=7, other=7)) == [
            False,
            True,
        ]
        assert verdicts(waiter(), using) == [True]
        gone = using._replace(desired=Desired(), observed=replace(using.observed, replicas=Replicas()))
        assert verdicts(waiter(backend="b", gone=True), gone) == [True]

    in_loop(test)


def test_a_backend_s_change_is_in_the_table_that_has_its_replicas() -> None:
    """Who waits for a backend waits for the first table since it is as wanted, not for an earlier one (CB9, CL4)."""

    def test() -> None:
        desired, half = with_backend(1, wanted=2)
        _, full = with_backend(2, wanted=2)
        assert verdicts(
            waiter(backend="b"),
            at(7, desired=desired, observed=half, ingress=7, other=7),
            at(8, desired=desired, observed=full, ingress=7, other=7),
            at(9, desired=desired, observed=full, ingress=8, other=7),
            at(30, desired=desired, observed=full, ingress=29, other=8),
        ) == [False, False, False, True]

    in_loop(test)


def test_a_backend_that_is_unwell_again_is_waited_for() -> None:
    """When a replica dies before every ingress knew it, the caller waits until the backend is whole again (CB9)."""

    def test() -> None:
        desired, full = with_backend(2, wanted=2)
        _, half = with_backend(1, wanted=2)
        _, again = with_backend(2, wanted=2)
        assert verdicts(
            waiter(backend="b"),
            at(8, desired=desired, observed=full, ingress=7, other=7),
            at(9, desired=desired, observed=half, ingress=9, other=9),
            at(10, desired=desired, observed=again, ingress=9, other=9),
        ) == [False, False, True]

    in_loop(test)


def test_a_deletion_is_over_when_nothing_is_left() -> None:
    """Who deletes a backend waits until its last replica is gone (LC3)."""

    def test() -> None:
        _, leaving = with_backend(1)
        assert verdicts(
            waiter(backend="b", gone=True),
            at(7, observed=leaving, ingress=7, other=7),
            at(7, ingress=7, other=7),
        ) == [False, True]

    in_loop(test)


def test_a_change_that_was_taken_back_is_told_at_once() -> None:
    """Who waits for a backend hears why it could not come up, whatever routers have; an older failure is no news."""

    def test() -> None:
        desired, observed = with_backend(1)
        observed.failures["b"] = Failures(
            reason=Reason.CONSTRUCTOR_FAILED, error="KeyError", text="'x'", traceback="Traceback", rolled_back=4
        )
        asked = waiter(backend="b")
        assert verdicts(asked, at(7, desired=desired, observed=observed, ingress=6)) == [False]
        observed.failures["b"].rolled_back = 5
        assert verdicts(asked, at(7, desired=desired, observed=observed, ingress=6)) == [True]
        with pytest.raises(
            StartFailure, match=r"backend 'b' could not be brought up \(constructor_failed\): KeyError: 'x'"
        ):
            asked.future.result()
        asked.check(at(8, ingress=8, other=8))
        vanished = waiter(backend="b")
        vanished.check(at(7))
        assert isinstance(vanished.future.exception(), BackendStartError)

    in_loop(test)


@pytest.mark.parametrize("version", [5, 6])
def test_a_deploy_that_another_one_replaces(version: int) -> None:
    """Who deploys hears that other code has come before theirs was served, and not that theirs is served; who changes
    the configuration, or deploys the same code as another, is not concerned (DP3)."""

    def test() -> None:
        desired, observed = with_backend(1)
        desired = msgspec.structs.replace(
            desired, version=6, backends={"b": msgspec.structs.replace(desired.backends["b"], version=version)}
        )
        deploy, config = waiter(backend="b", brings_code=True), waiter(backend="b")
        is_replaced = version == 6
        assert verdicts(deploy, at(7, desired=desired, observed=observed)) == [is_replaced]
        assert verdicts(config, at(7, desired=desired, observed=observed)) == [False]
        if is_replaced:
            with pytest.raises(BackendStartError, match="another deploy has replaced this code of backend 'b'"):
                deploy.future.result()

    in_loop(test)


def test_progress_is_told_when_it_changes() -> None:
    """A caller sees how many replicas are ready, once per number and not per event (CB9)."""

    def test() -> None:
        told: list[Progress] = []
        asked = waiter(backend="b", progress=told.append)
        for ready in (0, 0, 1, 1, 1, 2):
            desired, observed = with_backend(ready, wanted=3)
            asked.check(at(7, desired=desired, observed=observed))
        assert told == [Progress("b", 0, 3), Progress("b", 1, 3), Progress("b", 2, 3)]

    in_loop(test)


def test_an_http_server_that_never_takes_the_new_table() -> None:
    """A backend is as wanted, and an HTTP server is stopped: its creator is told after a minute, and not never (G9)."""

    async def main() -> None:
        desired, observed = with_backend()
        waiters = Waiters()
        waiting = asyncio.ensure_future(waiters.wait(Await("id", 5, "b", False, None), frozenset(), lambda _: None))
        await asyncio.sleep(0)
        waiters.check(at(7, desired=desired, observed=observed, ingress=6))
        await asyncio.sleep(TABLES_S - 1)
        assert not waiting.done()
        with pytest.raises(TimeoutError, match=r"status\(\) shows which HTTP servers are not up to date"):
            await waiting

    run(main())


def test_the_way_back_fails_as_well() -> None:
    """Who made a change is told what was wrong with it, also when some replica could not take the old config (RC10)."""

    def test() -> None:
        desired, observed = with_backend()
        failures = observed.failures["b"] = Failures(error="RuntimeError", text="half way")
        failures.roll_back(5)
        failures.text = "and not back either"
        caller = waiter(backend="b")
        caller.check(at(7, desired=desired, observed=observed))
        assert "half way" in str(caller.future.exception())

    in_loop(test)
