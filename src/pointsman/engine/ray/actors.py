"""Creates and kills actors, one order after the other on a thread, since Ray's calls block while its head does not
answer. Reports the start and the exit of each actor. Called by ``engine`` on the controller's loop.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnschedulableError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pointsman.engine.ray.child import ChildError
from pointsman.engine.ray.hosts import HostArgs, Introduction

log = logging.getLogger(__name__)

T = TypeVar("T")

NODE_DIED = "its node has died"
UNEXPECTED = "its process exited, crashed or was killed; Ray does not tell which"


class ActorSpec(NamedTuple):
    """An actor to create.

    Attributes:
        host: its class.
        name: in the instance's namespace.
        method: of ``host``; runs the process, and returns or raises when that ends.
        args: argument of its constructor.
        options: of the actor: resources, runtime environment.
        node: where it must run; empty to let Ray choose.
    """

    host: type
    name: str
    method: str
    args: HostArgs
    options: dict[str, Any]
    node: str


class ActorExit(NamedTuple):
    """How an actor exited, in words, and whether the reason is the loss of its node."""

    text: str
    node_died: bool = False


class Actors:
    """The actors of one instance.

    Args:
        namespace: of the instance.
        began: called with the name of an actor that has started, and its introduction.
        ended: called with the name of an actor that has exited, and how.
    """

    def __init__(
        self, namespace: str, *, began: Callable[[str, Introduction], None], ended: Callable[[str, ActorExit], None]
    ) -> None:
        self._namespace = namespace
        self._began = began
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pointsman-ray")
        self._handles: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._newest: dict[str, int] = {}
        """Of each name. All calls to an actor fail when it dies, and the next one may have its name already then."""

    def run(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Call a function on the thread, after all earlier orders."""
        return self._loop.run_in_executor(self._thread, function)

    def start(self, wanted: ActorSpec) -> None:
        """Create an actor; ``began`` or ``ended`` follows."""
        number = self._add(wanted.name)
        self._order(wanted.name, lambda: self._start(wanted, number))

    def adopt(self, name: str, *, introduce: bool = False) -> None:
        """Watch an actor that an earlier controller has created; ``ended`` follows.

        Args:
            introduce: request its introduction too; only for actors that answer calls while they run.
        """
        number = self._add(name)
        self._order(name, lambda: self._adopt(name, introduce, number))

    async def ask(self, name: str, method: str, *args: Any) -> Any:
        """Call an actor's method and return its result. Raises RayError, KeyError: the actor has exited."""
        reference = await self.run(lambda: getattr(self._handles[name], method).remote(*args))
        return await asyncio.wrap_future(reference.future())

    def send(self, name: str, method: str) -> None:
        """Call an actor's method, if the actor lives, and ignore its result."""

        def order() -> None:
            handle = self._handles.get(name)
            if handle is not None:
                getattr(handle, method).remote()

        self.run(order)

    def kill(self, name: str) -> None:
        """Kill an actor; ``ended`` follows."""
        self._order(name, lambda: self._kill(name))

    def is_known(self, name: str) -> bool:
        return name in self._handles

    @property
    def names(self) -> list[str]:
        """The names of all actors that have not exited."""
        return list(self._handles)

    def give_up(self, name: str, ending: ActorExit) -> None:
        """Kill an actor, and treat it as exited now, without waiting for the cluster's word."""
        handle = self._handles.get(name)
        if handle is not None:
            self.run(lambda: ray.kill(handle, no_restart=True))
        self._end(name, ending)

    def _add(self, name: str) -> int:
        self._handles[name] = None
        self._newest[name] = next(self._numbers)
        return self._newest[name]

    # On the thread

    def _start(self, wanted: ActorSpec, number: int) -> None:
        options = dict(wanted.options)
        if wanted.node and "scheduling_strategy" not in options:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(wanted.node, soft=False)
        actor = ray.remote(wanted.host).options(
            name=wanted.name,
            namespace=self._namespace,
            lifetime="detached",  # it outlives this controller, and exits by itself with the instance
            max_restarts=0,
            **options,
        )
        name, handle = wanted.name, actor.remote(wanted.args)
        self._when_done(self._have_introduced(name, handle), name, number)
        self._when_done(getattr(handle, wanted.method).remote(), name, number)
        self._watch(name, handle, number)

    def _have_introduced(self, name: str, handle: Any) -> Any:
        introduced = handle.introduce.remote()
        introduced.future().add_done_callback(
            lambda future: None if future.exception() else self._call_on_loop(self._began, name, future.result())
        )
        return introduced

    def _adopt(self, name: str, introduce: bool, number: int) -> None:
        handle = ray.get_actor(name, namespace=self._namespace)
        if introduce:
            self._have_introduced(name, handle)
        self._watch(name, handle, number)

    def _watch(self, name: str, handle: Any, number: int) -> None:
        self._handles[name] = handle
        self._when_done(handle.attend.remote(), name, number)

    def _when_done(self, reference: Any, name: str, number: int) -> None:
        reference.future().add_done_callback(
            lambda future: self._call_on_loop(self._on_result, name, number, future.exception())
        )

    def _kill(self, name: str) -> None:
        handle = self._handles.get(name)
        if handle is not None and hasattr(handle, "kill_child"):
            # ray.kill would end the actor only, and processes that its child has forked would live on.
            handle.kill_child.remote()
        elif handle is not None:
            ray.kill(handle, no_restart=True)

    # On the loop

    def _order(self, name: str, function: Callable[[], None]) -> None:
        def done(future: asyncio.Future[None]) -> None:
            error = None if future.cancelled() else future.exception()
            if error is not None:
                self._end(name, ActorExit(f"could not be started: {error}"))

        self.run(function).add_done_callback(done)

    def _call_on_loop(self, function: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    def _on_result(self, name: str, number: int, error: BaseException | None) -> None:
        if self._newest.get(name) != number:
            return
        if isinstance(error, RayTaskError):  # the method raised: the actor itself lives on, and must be killed
            self.give_up(name, describe_exit(error))
        elif isinstance(error, RayError):
            self._end(name, describe_exit(error))

    def _end(self, name: str, ending: ActorExit) -> None:
        if self._handles.pop(name, self) is not self:
            self._newest.pop(name, None)
            self._ended(name, ending)


def describe_exit(error: BaseException) -> ActorExit:
    """How an actor exited, in one line.

    Ray has no codes for the reasons, so the texts of its errors are searched (pinned by tests/unit/test_ray_endings).
    """
    if isinstance(error, RayTaskError):
        by_child = isinstance(error.cause, ChildError)
        return ActorExit(str(error.cause) if by_child else f"{type(error.cause).__name__}: {error.cause}")
    text = str(error)
    if isinstance(error, ActorUnschedulableError):
        # It was pinned to a node that has died, and that Ray listed as alive when it was created.
        return ActorExit(text.splitlines()[0], node_died="NodeAffinity" in text)
    if isinstance(error, ActorDiedError):
        if "its node has died" in text:
            return ActorExit(NODE_DIED, node_died=True)
        if "connection error code" in text:  # Ray only knows that the process's connection broke
            return ActorExit(UNEXPECTED)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return ActorExit(lines[-1] if lines else "it died")
    return ActorExit(text.splitlines()[0] if text else type(error).__name__)
