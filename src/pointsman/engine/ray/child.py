"""Replicas in other Python environments than the cluster's, which need not have Ray (decision 0029). The replica runs
as a child process of the actor, in that environment's interpreter, as on the local engine. The actor locates the
controller for it.
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
    """The child process could not be started, or failed; the text says how."""


class ChildHost(ProcessHost):
    """The actor of a replica that runs as a child process. It answers calls while the child runs.

    Args:
        args: with an environment.
    """

    def __init__(self, args: HostArgs) -> None:
        super().__init__(args)
        self._child: Child | None = None
        self._over = asyncio.Event()
        self._begun = asyncio.Event()  # Ray may run the calls of an async actor in another order than they were made

    async def introduce(self) -> Introduction:  # type: ignore[override]
        """Start the child and return its introduction.

        Raises:
            ChildError: its interpreter is missing on this node, or cannot be run.
        """
        handover = self._enter(ReplicaHandover, "replica")
        relay = listen_private(self._folder.socket(f"r/{handover.number}.host"))
        _on_a_thread(answer, relay, lambda: ask_now(handover.control_path))
        there = msgspec.structs.replace(self._placed(handover), relay=relay.getsockname())
        env, environment = self._args.env, self._args.environment
        try:
            # Not on a worker thread: the kernel kills the child (PR_SET_PDEATHSIG) when the thread that started it
            # ends, and the thread of the actor's loop lives as long as this process.
            self._child, output = spawn(
                sys.executable, "replica", there.number, pack_handover(there), env=env, fds=(), environment=environment
            )
        except OSError as error:
            raise ChildError(f"could not be started: {error}") from None
        self._begun.set()
        _on_a_thread(_copy, output)
        return Introduction(self._child.process.pid, node_of_this_process())

    async def be_replica(self) -> None:  # type: ignore[override]
        """Wait for the child's exit, then exit.

        Raises:
            ChildError: its exit code was not 0.
        """
        await self._begun.wait()
        assert self._child is not None
        code = await asyncio.to_thread(self._child.process.wait)
        how = self._child.reap()
        self._leave_replica(self._child.number)
        self._over.set()  # ends ``attend``: Ray lets no async actor exit while one of its methods runs
        if code:
            raise ChildError(how)
        ray.actor.exit_actor()

    async def attend(self) -> None:  # type: ignore[override]
        """Return when the child has exited; the controller watches the actor by waiting for this."""
        await self._over.wait()

    async def kill_child(self) -> None:
        """Kill the child with all processes that user code has forked."""
        if self._child is not None:
            self._child.signal(signal.SIGKILL)


def _on_a_thread(function: Callable[..., object], *args: object) -> None:
    threading.Thread(target=function, args=args, name=f"pointsman-{function.__name__}", daemon=True).start()


def _copy(output: int) -> None:
    """Copy the child's output to this process's standard error, which is Ray's log file."""
    with os.fdopen(output, "rb", buffering=0) as source, os.fdopen(2, "wb", buffering=0, closefd=False) as log:
        shutil.copyfileobj(source, log)
