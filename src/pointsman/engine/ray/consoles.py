"""The console on a cluster: an actor on the node of ``start``, where its port was taken. It serves until the instance
ends, and is restarted if it dies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection

import ray

from pointsman.engine.listening import listen
from pointsman.engine.process import main_of, pack_handover, unpack_handover
from pointsman.engine.ray.actors import Actors, ActorSpec
from pointsman.engine.ray.folder import CONSOLE_PREFIX, NodeFolder, console_name, control_path_of, namespace_in
from pointsman.engine.ray.hosts import HostArgs, Introduction, end_of_instance, node_of_this_process
from pointsman.engine.ray.supervised import Supervised
from pointsman.telemetry import logs
from pointsman.wire.address import set_node
from pointsman.wire.handover import ClusterHandover, ConsoleHandover


class ConsoleHost:
    """The actor of a console. Its methods run on the event loop that also serves the page.

    Args:
        args: with a :class:`ConsoleHandover`.
    """

    def __init__(self, args: HostArgs) -> None:
        self._args = args
        self._end_requested = asyncio.Event()
        self._over = asyncio.Event()
        set_node(node_of_this_process())

    def __repr__(self) -> str:
        return self._args.label

    async def introduce(self) -> Introduction:
        """The process and its node."""
        return Introduction(os.getpid(), node_of_this_process())

    async def be_console(self) -> None:
        """Serve until the instance ends, then exit.

        Raises:
            OSError: the port cannot be bound.
        """
        handover = unpack_handover(self._args.handover, ConsoleHandover)
        logs.set_up(handover.log_format, "console")
        folder = NodeFolder(handover.instance)
        folder.enter(with_metrics=self._args.with_metrics)
        folder.say_where_logs_are("console", self._args.label)
        listener = listen(handover.settings.host, handover.settings.port, shared=True)
        watching = asyncio.ensure_future(end_of_instance(namespace_in(handover.control_path)))
        requested = asyncio.ensure_future(self._end_requested.wait())

        def on_stop(stop: Callable[[], None]) -> None:
            for ending in (watching, requested):
                ending.add_done_callback(lambda _: stop())

        await main_of("console")(handover, listener, on_stop)
        watching.cancel()
        listener.close()
        folder.leave()
        self._over.set()  # ends ``attend``: Ray lets no async actor exit while one of its methods runs
        ray.actor.exit_actor()

    async def end(self) -> None:
        """Exit, since the instance ends."""
        self._end_requested.set()

    async def attend(self) -> None:
        """Return when the console has ended; the controller watches the actor by waiting for this."""
        await self._over.wait()


class Consoles(Supervised):
    """The console of one instance, if it has one.

    Args:
        given: start arguments of the controller.
        actors: creates and watches it.
    """

    def __init__(self, given: ClusterHandover, actors: Actors) -> None:
        super().__init__(actors, CONSOLE_PREFIX)
        self._given = given

    def keep_up(self, nodes: Collection[str]) -> None:
        """Want a console on the node of ``start``, if that is one of the live ``nodes``."""
        home = self._given.home
        self.want({console_name(home): home} if self._given.settings.console is not None and home in nodes else {})

    def make(self, name: str, node: str) -> ActorSpec:
        settings = self._given.settings
        handover = settings.for_console(control_path_of(self._given.namespace, settings.instance))
        return ActorSpec(
            host=ConsoleHost,
            name=name,
            method="be_console",
            args=HostArgs("console", pack_handover(handover), {}, settings.metrics is not None),
            options={"num_cpus": 0},
            node=node,
        )
