"""Replicas in Python environments of their own. Such an environment need not have Ray: its interpreter runs the replica
as a child process of the actor, started as the local engine starts it, and the actor asks the cluster on its behalf.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable

import msgspec
import ray

from pointsman.engine.process import Child, pack_handover, spawn
from pointsman.engine.ray.hosts import HostArgs, Introduction, ProcessHost, node_of_this_process
from pointsman.engine.ray.lookup import ask_now
from pointsman.engine.relay import answer
from pointsman.wire.handover import ReplicaHandover
from pointsman.wire.stream import listen_private


class ChildError(Exception):
    """The child process did not begin, or ended otherwise than by order; says how."""


class ChildHost(ProcessHost):
    """The actor of a replica that runs as a child process. Its methods are answered while the child runs.

    Args:
        args: with an environment.
    """

    def __init__(self, args: HostArgs) -> None:
        super().__init__(args)
        self._child: Child | None = None
        self._over = asyncio.Event()
        self._begun = asyncio.Event()  # Ray does not promise that calls come in order to one that has a loop

    async def introduce(self) -> Introduction:  # type: ignore[override]
        """Start the child, and say who that is.

        Raises:
            ChildError: its interpreter is not on this node, or cannot be run.
        """
        handover = self._enter(ReplicaHandover, "replica")
        relay = listen_private(self._folder.socket(f"r/{handover.number}.host"))
        _on_a_thread(answer, relay, lambda: ask_now(handover.control_path))
        there = msgspec.structs.replace(self._placed(handover), relay=relay.getsockname())
        env, environment = self._args.env, self._args.environment
        try:
            # On a thread that lives as long as this process: the kernel kills the child when that ends.
            self._child, output = spawn(
                sys.executable, "replica", there.number, pack_handover(there), env=env, fds=(), environment=environment
            )
        except OSError as error:
            raise ChildError(f"could not be started: {error}") from None
        self._begun.set()
        _on_a_thread(_copy, output)
        return Introduction(self._child.process.pid, node_of_this_process())

    async def be_replica(self) -> None:  # type: ignore[override]
        """Wait for the child's end, which is this actor's end as well.

        Raises:
            ChildError: it was not ended by order.
        """
        await self._begun.wait()
        assert self._child is not None
        code = await asyncio.to_thread(self._child.process.wait)
        how = self._child.reap()
        self._leave_replica(self._child.number)
        self._over.set()  # Ray lets no actor with a loop exit while a method of it is under way
        if code:
            raise ChildError(how)
        ray.actor.exit_actor()

    async def attend(self) -> None:  # type: ignore[override]
        """Returns at the end and not before: who waits for it learns of that."""
        await self._over.wait()

    async def kill_child(self) -> None:
        """End the child now, with all that its user code has forked."""
        if self._child is not None:
            self._child.signal(signal.SIGKILL)


def _on_a_thread(function: Callable[..., object], *args: object) -> None:
    threading.Thread(target=function, args=args, name=f"pointsman-{function.__name__}", daemon=True).start()


def _copy(output: int) -> None:
    """What the child prints goes where this process prints, which is Ray's log."""
    with os.fdopen(output, "rb", buffering=0) as source, os.fdopen(2, "wb", buffering=0, closefd=False) as log:
        shutil.copyfileobj(source, log)
