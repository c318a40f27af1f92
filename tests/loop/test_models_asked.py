"""controller.models: what replicas hold is asked when somebody wants to know."""

from __future__ import annotations

import asyncio

import pytest

from pointsman.controller.models import ANSWER_S, Models
from pointsman.controller.replicas import Phase
from pointsman.exceptions import ServeException
from pointsman.testing import run, settle
from pointsman.wire.scaling import HeldModel, ModelDetails
from tests.unit.reconciling import backend, replica, see, want

SEVEN, EIGHT = HeldModel("seven", 70, 1, 0.0), HeldModel("eight", 80, 0, 2.5)


def test_every_replica_that_serves_says_what_it_holds() -> None:
    """The models of a backend are those that its serving replicas name; one that is not connected, or ends before it
    has answered, is left out, and a late answer is nobody's (MX11)."""

    async def main() -> None:
        asked: list[tuple[int, int]] = []

        def ask(number: int, question: int) -> bool:
            asked.append((number, question))
            return number != 3

        models = Models(ask)
        there = see(*(replica(number) for number in (1, 2, 3)), replica(4, Phase.STARTING), replica(5, tag="other"))
        answer = asyncio.ensure_future(models.of(want(backend(4)), there, "b"))
        await settle()
        assert [number for number, _ in asked] == [1, 2, 3]
        question = asked[0][1]
        models.told(1, question + 1, ModelDetails((EIGHT,)))
        models.told(1, question, ModelDetails((SEVEN, EIGHT)))
        models.lost(2)
        assert (await answer).replicas == {"b#1": (SEVEN, EIGHT)}
        models.told(1, question, ModelDetails())
        assert (await models.of(want(backend()), see(replica(3)), "b")).replicas == {}

    run(main())


def test_a_replica_that_does_not_answer_is_named() -> None:
    """A replica that does not say in time what it holds fails the question, with its name; so does a backend that does
    not exist (MX11)."""

    async def main() -> None:
        models = Models(lambda number, question: True)
        began = asyncio.get_running_loop().time()
        with pytest.raises(ServeException, match="replica b#1 did not say within 3 s which models it holds"):
            await models.of(want(backend()), see(replica(1)), "b")
        assert asyncio.get_running_loop().time() == pytest.approx(began + ANSWER_S)
        with pytest.raises(ValueError, match="backend 'c' does not exist"):
            await models.of(want(backend()), see(replica(1)), "c")

    run(main())
