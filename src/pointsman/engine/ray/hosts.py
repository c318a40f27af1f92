"""The actor classes: thin shells in which the processes of an instance run. Calls and orders do not go through them.

    ControllerHost   runs the controller on a thread; Ray restarts the actor when it has died
    ProcessHost      runs an ingress or a replica on the main thread (``child`` has another kind)
    MetricsHost      serves the metrics of a node; ``consoles`` has a kind that serves the console

The process itself is the ``run`` of ``pointsman.<role>.__main__``, the function that the local engine runs too. It is
found by its name, since an engine must not import what it starts.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
import ray
from ray.exceptions import ActorDiedError, RayError

from pointsman.engine.base import Address
from pointsman.engine.listening import listen_for_metrics, url_of
from pointsman.engine.process import main_of, run_process, unpack_handover
from pointsman.engine.ray.folder import CONTROLLER, NodeFolder, control_path_of
from pointsman.engine.ray.lookup import WhereAbouts
from pointsman.exceptions import ServeException
from pointsman.model import Environment
from pointsman.telemetry import logs
from pointsman.telemetry.counted import Counted, TallyCollector, metrics_in
from pointsman.telemetry.exporter import Exporter
from pointsman.telemetry.pairs import PairReader
from pointsman.telemetry.reports import reading_of
from pointsman.wire.address import set_node
from pointsman.wire.auth import ROLE_OPERATOR, derive_key
from pointsman.wire.handover import ClusterHandover, IngressHandover, MetricsHandover, MetricsPort, ReplicaHandover
from pointsman.wire.messages import pack

PAUSE_S = 0.1

log = logging.getLogger("pointsman")

H = TypeVar("H", ReplicaHandover, IngressHandover)
T = TypeVar("T")


class Running(NamedTuple):
    """A running controller: its addresses, and a function that ends the instance from any thread."""

    where: WhereAbouts
    metrics_port: int
    end: Callable[[], None]


class Introduction(NamedTuple):
    """The pid and the node of an actor's process, and the base URL of the metrics that it serves, if any."""

    pid: int
    node: str
    metrics: str = ""


class ControllerHost:
    """The controller's actor. Its methods run on Ray's loop, the controller on another one.

    Args:
        packed: a :class:`ClusterHandover`.
    """

    def __init__(self, packed: bytes) -> None:
        given = msgspec.msgpack.decode(packed, type=ClusterHandover)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of something that Ray uses itself
            again = ray.get_runtime_context().was_current_actor_reconstructed
        # A process that has taken the metrics port meanwhile must not keep a restarted controller from starting.
        self._given = _not_strict(given) if again else given
        self._running: concurrent.futures.Future[Running] = concurrent.futures.Future()
        set_node(node_of_this_process())
        threading.Thread(target=self._run, name="pointsman-controller", daemon=True).start()

    def __repr__(self) -> str:
        return "controller"

    async def whereabouts(self) -> WhereAbouts:
        """The controller's addresses, once it listens. Raises the error that kept it from starting."""
        return (await asyncio.wrap_future(self._running)).where

    async def address(self) -> Address:
        """The operator's address, with the key. The key is protected by the cluster's authentication: whoever can call
        this can run any code in the cluster anyway."""
        running = await asyncio.wrap_future(self._running)
        settings = self._given.settings
        return Address(
            instance=settings.instance,
            control_path=control_path_of(self._given.namespace, settings.instance),
            key=derive_key(settings.master_key, ROLE_OPERATOR),
            http_host=settings.http_host,
            http_port=settings.http_port,
            request_timeout_s=settings.request_timeout_s,
            metrics_host=settings.metrics.host if settings.metrics is not None else None,
            metrics_port=running.metrics_port,
            secure=settings.http_lock.tls is not None,
            console=settings.console_url,
        )

    async def attend(self) -> None:
        """Never returns. Waiting for it raises when the actor dies, which is how others notice."""
        await asyncio.Event().wait()

    async def end(self) -> None:
        """End the instance, since its driver exits."""
        (await asyncio.wrap_future(self._running)).end()

    def _run(self) -> None:
        serving = main_of("controller")(self._given, ray.util.get_node_ip_address(), self._running.set_result)
        try:
            run_process(serving, process="controller", log_format=self._given.settings.log_format)
        except BaseException as error:
            if self._running.done():
                log.critical("the controller failed and will be started again", exc_info=error)
                os._exit(1)
            known = isinstance(error, Exception)
            self._running.set_exception(error if known else ServeException(f"the controller did not start: {error}"))
        else:
            # Without this Ray would restart the actor.
            ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


def _not_strict(given: ClusterHandover) -> ClusterHandover:
    """The same, with a metrics port that may be replaced if it is in use."""
    if given.settings.metrics is None:
        return given
    metrics = msgspec.structs.replace(given.settings.metrics, strict=False)
    return msgspec.structs.replace(given, settings=msgspec.structs.replace(given.settings, metrics=metrics))


class HostArgs(NamedTuple):
    """The arguments of an actor.

    Attributes:
        label: prefix of its output in Ray's log.
        handover: packed start arguments of the process that it runs.
        env: environment variables; they override those of its node.
        environment: the Python environment of the process; None for the cluster's.
    """

    label: str
    handover: bytes
    env: dict[str, str]
    with_metrics: bool
    environment: Environment | None = None


class ProcessHost:
    """The actor of an ingress or a replica."""

    def __init__(self, args: HostArgs) -> None:
        self._args = args
        set_node(node_of_this_process())

    def __repr__(self) -> str:
        return self._args.label

    def introduce(self) -> Introduction:
        """The process and its node. Called once, before ``be_...``, which blocks further calls."""
        return Introduction(os.getpid(), node_of_this_process())

    def be_replica(self) -> None:
        """Run a replica until it exits, then exit."""
        handover = self._enter(ReplicaHandover, "replica")
        self._be("replica", self._placed(handover))
        self._leave_replica(handover.number)
        ray.actor.exit_actor()

    def be_ingress(self) -> None:
        """Run an ingress until it exits, then exit.

        Raises:
            OSError: the port cannot be bound.
        """
        handover = self._enter(IngressHandover, "ingress")
        self._be("ingress", handover)
        self._folder.leave()
        ray.actor.exit_actor()

    def attend(self) -> None:
        """Queued behind ``be_...``, so it never runs; waiting for it raises when the actor dies."""

    def _enter(self, handover_type: type[H], role: str) -> H:
        """Enter the instance's folder on this node. Returns the unpacked start arguments."""
        handover = unpack_handover(self._args.handover, handover_type)
        self._folder = NodeFolder(handover.instance)
        self._folder.enter(with_metrics=self._args.with_metrics)
        self._folder.say_where_logs_are(role, self._args.label)
        return handover

    def _placed(self, handover: ReplicaHandover) -> ReplicaHandover:
        """The same with what was not known before Ray chose the node."""
        return msgspec.structs.replace(
            handover,
            node=node_of_this_process(),
            address=self._folder.socket(f"r/{handover.number}"),
            tcp_host=ray.util.get_node_ip_address(),
        )

    def _be(self, role: str, handover: Any) -> None:
        os.environ.update(self._args.env)
        main_of(role)(handover)

    def _leave_replica(self, number: int) -> None:
        self._folder.forget(*(f"r/{number}{suffix}" for suffix in ("", ".started", ".host")))
        self._folder.leave()


def node_of_this_process() -> str:
    return str(ray.get_runtime_context().get_node_id())


class Serving(NamedTuple):
    """An exporter that serves, and its URL."""

    exporter: Exporter
    url: str


class MetricsHost:
    """The actor of an exporter. Its methods run on the event loop that also serves the metrics.

    Args:
        args: with a :class:`MetricsHandover`.
    """

    def __init__(self, args: HostArgs) -> None:
        self._args = args
        self._serving: concurrent.futures.Future[Serving] = concurrent.futures.Future()
        self._counting = threading.Lock()
        self._tallies: TallyCollector | None = None
        self._end_requested = asyncio.Event()
        self._over = asyncio.Event()
        self._comparing = threading.Lock()
        self._pairs: PairReader | None = None

    def __repr__(self) -> str:
        return self._args.label

    async def introduce(self) -> Introduction:
        """The process, its node and its URL, once it serves."""
        serving = await asyncio.wrap_future(self._serving)
        return Introduction(os.getpid(), node_of_this_process(), serving.url)

    async def be_exporter(self) -> None:
        """Serve until the instance ends, then exit.

        Raises:
            OSError: nothing can be bound here.
        """
        handover = unpack_handover(self._args.handover, MetricsHandover)
        logs.set_up(handover.log_format, "metrics")
        set_node(node_of_this_process())
        folder = NodeFolder(handover.instance)
        folder.enter(with_metrics=self._args.with_metrics)
        # Other nodes may run on this machine, so a port in use is no error here.
        listener = listen_for_metrics(MetricsPort(handover.host, handover.port, strict=False))
        exporter = Exporter(folder.metrics, listener)
        await exporter.start()
        self._serving.set_result(Serving(exporter, url_of(listener, ray.util.get_node_ip_address())))
        watching = asyncio.ensure_future(end_of_instance(handover.namespace))
        requested = asyncio.ensure_future(self._end_requested.wait())
        await asyncio.wait({watching, requested}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        await exporter.aclose()
        listener.close()
        folder.leave()
        self._over.set()  # ends ``attend``: Ray lets no async actor exit while one of its methods runs
        ray.actor.exit_actor()

    async def read(self) -> bytes:
        """A packed :class:`Reading` of this node's metrics."""
        serving = await asyncio.wrap_future(self._serving)
        return pack(reading_of(await serving.exporter.collect(), time.monotonic()))

    async def read_pairs(self, wanted: dict[str, list[str]]) -> bytes:
        """Packed counts of these comparisons on this node (:mod:`pointsman.telemetry.pairs`)."""
        counts = await self._read_pairs(lambda reader: reader.read(wanted))
        return pack({name: list(found.items()) for name, found in counts.items()})

    async def read_examples(self, name: str, codes: list[str], limit: int) -> bytes:
        """Examples of a comparison on this node, in JSON."""
        return json.dumps(await self._read_pairs(lambda reader: reader.examples(name, codes, limit))).encode()

    async def _read_pairs(self, read: Callable[[PairReader], T]) -> T:
        """Read from disk on another thread, one at a time: this loop answers others, too."""

        def locked() -> T:
            with self._comparing:
                if self._pairs is None:
                    handover = unpack_handover(self._args.handover, MetricsHandover)
                    self._pairs = PairReader(NodeFolder(handover.instance).pairs)
                return read(self._pairs)

        await asyncio.wrap_future(self._serving)
        return await asyncio.to_thread(locked)

    async def read_tallies(self, metrics: list[str]) -> bytes:
        """A packed :class:`Counted` of what was counted on this node, with these metrics of user code."""
        serving = await asyncio.wrap_future(self._serving)
        counted = await asyncio.to_thread(self._count)
        found = metrics_in(await serving.exporter.collect(), metrics) if metrics else []
        return pack(msgspec.structs.replace(counted, metrics=found))

    def _count(self) -> Counted:
        with self._counting:
            if self._tallies is None:
                handover = unpack_handover(self._args.handover, MetricsHandover)
                self._tallies = TallyCollector(NodeFolder(handover.instance).tallies)
            return self._tallies.collect()

    async def end(self) -> None:
        """Exit, since the instance ends."""
        self._end_requested.set()

    async def attend(self) -> None:
        """Return when the exporter has ended; the controller watches the actor by waiting for this."""
        await self._over.wait()


async def end_of_instance(namespace: str) -> None:
    """Return when the controller has ended for good. One that Ray restarts still exists."""
    while True:
        try:
            # On a thread: this blocks for as long as the cluster's head does not answer.
            controller = await asyncio.to_thread(ray.get_actor, CONTROLLER, namespace=namespace)
            await controller.attend.remote()
        except (ValueError, ActorDiedError):
            return
        except RayError as error:
            log.debug("the controller is not there just now: %s", error)
        await asyncio.sleep(PAUSE_S)
