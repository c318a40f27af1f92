"""engine.ray.actors: what Ray says of an actor's end, in one line, and whether its node is to blame."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayError

from pointsman.engine.ray.actors import NODE_DIED, Actors, describe_exit


class Died(ActorDiedError):
    """As Ray raises it, with these words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def __str__(self) -> str:
        return self.text


def test_an_actor_whose_node_is_gone_is_blameless() -> None:
    """A replica is pinned to a node that has just died, which Ray notices only then: no start has failed (F14)."""
    gone = ActorUnschedulableError("The node specified via NodeAffinitySchedulingStrategy doesn't exist any more.")
    ending = describe_exit(gone)
    assert ending.node_died
    assert "doesn't exist any more" in ending.text


@pytest.mark.parametrize(
    ("error", "node_died"),
    [
        (Died("The actor died because its node has died."), True),
        (Died("The actor is dead because it was killed by `ray.kill`."), False),
        (ActorUnschedulableError("The placement group was removed."), False),
        (RayError("no"), False),
    ],
)
def test_other_ends_are_told_apart(error: RayError, node_died: bool) -> None:
    """Only the loss of a node is nobody's fault (F14, F6)."""
    ending = describe_exit(error)
    assert ending.node_died == node_died
    assert (ending.text == NODE_DIED) == node_died


def test_a_death_counts_once_for_the_actor_that_died() -> None:
    """All calls to an actor fail when it dies. Where the next one has been started meanwhile, which has its name, the
    later failures are not taken for its death: else it would be started again and again (AD1, F14)."""
    ended: list[str] = []

    async def story() -> None:
        actors = Actors("n", began=lambda name, who: None, ended=lambda name, how: ended.append(name))
        first = actors._add("console-a")
        actors._on_result("console-a", first, RayError("died"))
        second = actors._add("console-a")
        actors._on_result("console-a", first, RayError("died"))
        assert actors.is_known("console-a")
        assert ended == ["console-a"]
        actors._on_result("console-a", second, RayError("died"))
        assert not actors.is_known("console-a")
        assert ended == ["console-a"] * 2

    asyncio.run(story())
