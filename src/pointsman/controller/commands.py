"""Carries out each command. Reads and waits are done here, changes by the controller, the only writer.

A change that adds replicas first refreshes what is free on the nodes, and can wait for nodes to join.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from msgspec import structs

from pointsman.controller.acting import time_of_day
from pointsman.controller.applying import find_operation
from pointsman.controller.controller import Controller
from pointsman.controller.evidence import EvidenceReader
from pointsman.controller.history import history_of
from pointsman.controller.models import Models
from pointsman.controller.moves import moves_of
from pointsman.controller.numbers import fresh_numbers, numbers_of
from pointsman.controller.operations import OperationWaiter, RolloutWaiter
from pointsman.controller.orders import Subscription
from pointsman.controller.rights import OPERATOR, Rights, Sender
from pointsman.controller.rollouts.changes import find_rollout
from pointsman.controller.rollouts.options import METRICS
from pointsman.controller.rollouts.words import view_of
from pointsman.controller.shadows import Shadows
from pointsman.controller.state import NoCapacityError
from pointsman.controller.views import backends_of, declared_of, failures_of, ingresses_of, status_of, traffic_of
from pointsman.engine.base import Engine, Nodes
from pointsman.exceptions import ServeException
from pointsman.lock.tokenfile import TokenFile
from pointsman.model.evidence import Numbers, Window
from pointsman.telemetry.exporter import Exporter
from pointsman.telemetry.reports import Reading, joined, only, queued_by_endpoint, reading_of
from pointsman.wire.address import node_here
from pointsman.wire.auth import ROLE_CONSOLE, derive_key
from pointsman.wire.commands import (
    AnyCommand,
    Apply,
    Await,
    AwaitIngress,
    AwaitOperation,
    BackendChange,
    Change,
    History,
    Moves,
    Progress,
    Query,
    QueryBackends,
    QueryDeclared,
    QueryFailures,
    QueryHistory,
    QueryMetrics,
    QueryMoves,
    QueryTraffic,
    Shutdown,
    Status,
)
from pointsman.wire.handover import InstanceSettings
from pointsman.wire.messages import pack
from pointsman.wire.rollouts import AwaitRollout, QueryRollout, QueryTallies, StartRollout
from pointsman.wire.scaling import QueryModels
from pointsman.wire.shadows import QueryExamples, QueryShadow
from pointsman.wire.tokens import ConsoleKey, QueryConsoleKey, QueryHolder, QueryTokens, TokenList

log = logging.getLogger(__name__)

LOOKS = (
    QueryBackends | QueryConsoleKey | QueryDeclared | QueryFailures | QueryHistory | QueryHolder | QueryMoves
    | QueryRollout | QueryTokens | QueryTraffic
)  # fmt: skip
"""Questions that the state answers as it is, at once."""

_NO_METRICS = (
    "this instance records no metrics (metrics_export_port=None); start it with a port for them, 0 for any free one"
)

#: The wait for ingresses fails after this many exits: a server that cannot start is not worth the whole timeout.
INGRESS_TRIES = 3
LOOK_AGAIN_S = 0.5
#: How long a placement group may exist before Ray shows the resources that it has reserved.
GROUP_LAG_S = 2.0
#: Limit of a refresh, so that a command gets its answer although the cluster's head does not answer.
LOOK_TIMEOUT_S = 3.0


class CapacityWait:
    """Repeats a change until there is free capacity for it.

    Args:
        nodes: refreshes what is free, and requests more nodes.
        wait_s: how long a change may wait for nodes to join; 0 refuses at once.
    """

    def __init__(self, nodes: Nodes, wait_s: float) -> None:
        self._nodes = nodes
        self._wait_s = wait_s

    async def carry_out(self, command: Change, change: Callable[[], Awaitable[bytes]]) -> bytes:
        """Carry out a change, waiting for free capacity.

        Raises:
            NoCapacityError: there was none in time; nothing has changed.
            ServeException: the cluster did not answer what is free; nothing has changed.
        """
        if not isinstance(command, (BackendChange, Apply)):
            return await change()
        loop = asyncio.get_running_loop()
        began = loop.time()
        requested = False
        try:
            while True:
                await self._look()
                try:
                    return await change()
                except NoCapacityError as error:
                    in_group = bool(error.resources.placement.group)
                    deadline = began + max(self._wait_s, GROUP_LAG_S if in_group else 0.0)
                    if loop.time() >= deadline:
                        raise
                    if not in_group:  # more nodes do not make a group larger
                        self._nodes.request_nodes(command.id, [(error.resources, error.count)])
                        requested = True
                await asyncio.sleep(min(LOOK_AGAIN_S, max(0.0, deadline - loop.time())))
        finally:
            if requested:
                self._nodes.request_nodes(command.id, [])

    async def _look(self) -> None:
        try:
            await asyncio.wait_for(self._nodes.refresh(), LOOK_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise ServeException(
                f"the cluster did not say within {LOOK_TIMEOUT_S:g} s what is free on its nodes, so nothing was changed"
            ) from None


class Commands:
    """Carries out commands.

    Args:
        settings: options of ``start``.
        ingresses: returns the ingresses that are connected now.
        evidence: what routers have counted.
        exporter: collects this node's metrics; None if nothing is recorded.
        models: asks replicas which models they hold.
        shadows: knows what has come of comparing shadows' answers; None where nothing is compared.
        metrics_url: URL of the exporter; empty if it does not serve.
        wait_for_resources_s: how long a change may wait for nodes to join.

    Attributes:
        token_file: tokens of the console that are not part of the state.
    """

    def __init__(
        self,
        settings: InstanceSettings,
        controller: Controller,
        engine: Engine,
        *,
        ingresses: Callable[[], Sequence[Subscription]],
        models: Models | None = None,
        shadows: Shadows | None = None,
        evidence: EvidenceReader | None = None,
        exporter: Exporter | None = None,
        metrics_url: str = "",
        wait_for_resources_s: float = 0.0,
    ) -> None:
        self._settings = settings
        self._controller = controller
        self._engine = engine
        self._ingresses = ingresses
        self._models = models
        self._shadows = shadows
        self._evidence = evidence
        self._exporter = exporter
        self._metrics_url = metrics_url
        self._capacity_wait = CapacityWait(engine.nodes, wait_for_resources_s)
        self._ingress_waiters: set[asyncio.Event] = set()
        self.token_file = TokenFile(settings.console.token_file if settings.console is not None else "")
        self._rights = Rights(lambda: controller.desired, lambda: self.token_file.tokens)

    def router_confirmed(self) -> None:
        """A router has confirmed a table: check again whether all ingresses serve."""
        for event in self._ingress_waiters:
            event.set()

    async def execute(
        self,
        command: AnyCommand,
        body: bytes,
        progress: Callable[[Progress], None],
        *,
        own_router: int | None,
        sender: Sender = OPERATOR,
    ) -> bytes:
        """Carry out a command and return its packed answer.

        Args:
            body: data that belongs to the command, such as code.
            progress: called with the progress of a wait.
            own_router: number of the router in the process that sent the command; None if it has none.
            sender: whose rights count.

        Raises:
            TokenError, ForbiddenError: the sender may not do that.
            StateChangedError: what is changed is not as the sender has seen it.
            ServeException, ValueError, TimeoutError: the command cannot be carried out.
        """
        controller = self._controller
        command = self._rights.admit(sender, command)
        own_routers: frozenset[int] = frozenset(() if own_router is None else (own_router,))
        if isinstance(command, Query):
            return pack(await self._status())
        if isinstance(command, LOOKS):
            return pack(self._look_up(command, sender))
        if isinstance(command, QueryTallies):
            return pack(await self._numbers(command))
        if isinstance(command, QueryMetrics):
            if self._exporter is None:
                raise ServeException(_NO_METRICS)
            return pack(only(await self._read(self._exporter), command.names))
        if isinstance(command, (QueryShadow, QueryExamples)):
            return await self._shadow(command)
        if isinstance(command, QueryModels):
            assert self._models is not None
            return pack(await self._models.of(controller.desired, controller.observed, command.tag))
        if isinstance(command, Await):
            await controller.wait(command, own_routers, progress)
            return b""
        if isinstance(command, AwaitOperation):
            operation = find_operation(controller.desired, command.operation)
            return pack(await controller.wait_for(OperationWaiter(operation, own_routers, progress)))
        if isinstance(command, AwaitIngress):
            await self._wait_for_ingresses(command.timeout_s)
            return b""
        if isinstance(command, Shutdown):
            return pack(controller.shutdown(forget=command.forget))
        if isinstance(command, AwaitRollout):
            rollout = find_rollout(controller.desired, command.endpoint)
            return pack(await controller.wait_for(RolloutWaiter(rollout, own_routers, command.timeout_s)))
        if isinstance(command, StartRollout) and METRICS in command.plan.gates and self._exporter is None:
            raise ValueError(f"gate {METRICS!r} would see nothing: {_NO_METRICS}")
        seen = sender.warrant.if_version if sender.warrant is not None else None
        return await self._capacity_wait.carry_out(command, lambda: controller.change(command, body, seen))

    def _look_up(self, command: LOOKS, sender: Sender) -> Any:
        """What the state answers as it is.

        Raises:
            TokenError: it is asked whose a token is, and it is nobody's.
            ValueError: there is no such object.
        """
        desired, observed = self._controller.desired, self._controller.observed
        if isinstance(command, QueryHolder):
            return self._rights.holder(sender)
        if isinstance(command, QueryConsoleKey):
            return ConsoleKey(derive_key(self._settings.master_key, ROLE_CONSOLE))
        if isinstance(command, QueryTokens):
            return TokenList(self._rights.tokens())
        if isinstance(command, QueryBackends):
            return backends_of(desired, command.tag)
        if isinstance(command, QueryTraffic):
            return traffic_of(desired, command.name)
        if isinstance(command, QueryFailures):
            return failures_of(desired, observed, command.tag, asyncio.get_running_loop().time(), time_of_day())
        if isinstance(command, QueryMoves):
            return self._moves()
        if isinstance(command, QueryHistory):
            return History(history_of(desired))
        if isinstance(command, QueryDeclared):
            return declared_of(self._settings, desired)
        return view_of(desired, find_rollout(desired, command.endpoint))

    async def _shadow(self, command: QueryShadow | QueryExamples) -> bytes:
        shadows = self._shadows
        if shadows is None:
            raise ServeException("this instance compares no answers")
        try:
            if isinstance(command, QueryExamples):
                return await shadows.examples(command.endpoint, command.backend, command.limit)
            await shadows.read()
        except OSError as error:
            raise ServeException(f"what was compared cannot be read: {error}") from None
        return pack(shadows.view(command.endpoint, command.backend))

    async def _status(self) -> Status:
        controller, queued = self._controller, await self._queued()
        status = status_of(
            self._settings,
            controller.desired,
            controller.observed,
            controller.table,
            ingresses=self._ingresses(),
            unsubscribed=controller.unsubscribed,
            metrics=self._metrics_addresses(),
            queued=queued,
            now=asyncio.get_running_loop().time(),
            time=time_of_day(),
        )
        return structs.replace(status, last_minute=self._last_minute())

    def _moves(self) -> Moves:
        controller = self._controller
        ingresses = ingresses_of(controller.observed, controller.table, self._ingresses(), controller.unsubscribed)
        now, addresses = asyncio.get_running_loop().time(), tuple(self._metrics_addresses().items())
        around = (*ingresses, addresses)
        return moves_of(controller.desired, controller.observed, around, now, time_of_day())

    def _last_minute(self) -> Window:
        if self._evidence is None:
            return Window(None, {})
        newest, desired = self._evidence.evidence(), self._controller.desired
        time = datetime.now(timezone.utc)
        return numbers_of(desired, newest, self._evidence.earlier, [60.0], endpoint=None, time=time).windows[0]

    async def _numbers(self, command: QueryTallies) -> Numbers:
        """What was counted up to now.

        Raises:
            ValueError: the endpoint does not exist.
            ServeException: it cannot be read.
        """
        assert self._evidence is not None
        if command.since is not None:
            return fresh_numbers(*self._evidence.since(command.since))
        try:
            newest = await self._evidence.now()
        except OSError as error:
            raise ServeException(f"what routers have counted cannot be read: {error}") from None
        time, earlier = datetime.now(timezone.utc), self._evidence.earlier
        desired = self._controller.desired
        return numbers_of(
            desired, newest, earlier, command.over_s, endpoint=command.endpoint, both=command.both, time=time
        )

    async def _read(self, exporter: Exporter) -> Reading:
        """The metrics of all nodes."""
        here = reading_of(await exporter.collect(), asyncio.get_running_loop().time())
        return joined(here, await self._engine.nodes.read_metrics())

    async def _queued(self) -> dict[str, int] | None:
        if self._exporter is None:
            return None
        try:
            return queued_by_endpoint(await self._read(self._exporter))
        except OSError as error:  # such as no free descriptor: the rest of the status is needed all the more
            log.warning("metrics cannot be collected: %s", error)
            return None

    async def _wait_for_ingresses(self, timeout_s: float) -> None:
        event = asyncio.Event()
        self._ingress_waiters.add(event)
        try:
            deadline = asyncio.get_running_loop().time() + timeout_s
            while sum(self._serves(s) for s in self._ingresses()) < self._engine.ingresses_wanted:
                if len(self._controller.ingress_exits) >= INGRESS_TRIES:
                    raise ServeException(
                        f"the HTTP server does not come up ({self._controller.ingress_exits[-1]}); see its log"
                    )
                event.clear()
                left_s = deadline - asyncio.get_running_loop().time()
                if left_s <= 0:
                    raise TimeoutError(f"the HTTP server was not ready after {timeout_s:g} s")
                # The event is set by confirmations only, so exits are polled once a second.
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(event.wait(), min(1.0, left_s))
        finally:
            self._ingress_waiters.discard(event)

    def _metrics_addresses(self) -> dict[str, str]:
        own = {node_here(): self._metrics_url} if self._metrics_url else {}
        return {**own, **self._engine.nodes.metrics_addresses}

    def _serves(self, subscription: Subscription) -> bool:
        return self._controller.observed.confirmed.get(subscription.number, 0) > 0
