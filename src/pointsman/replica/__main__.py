"""A replica process.

It connects to the controller, receives its assignment, loads the user code, listens for routers, and then executes
orders: a new configuration, a drain. If the controller dies, the replica keeps serving and reports to the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import signal
import sys

import msgspec

from pointsman.context import ReplicaContext, set_replica_context
from pointsman.engine.instances import locator, metrics_folder
from pointsman.engine.process import ORPHANED_DRAIN_S, SPARE_VARIABLE, Lifeline, run_process, unpack_handover
from pointsman.engine.relay import set_relay
from pointsman.model import Reason
from pointsman.policy.multiplexing import hash_of
from pointsman.replica.health import STDERR, Health, Vitals
from pointsman.replica.ledger import StartedLedger
from pointsman.replica.metrics import NO_METRICS, open_metrics
from pointsman.replica.mistakes import http_exception
from pointsman.replica.outcomes import StillRunningError, UserExit
from pointsman.replica.runtime import Runtime
from pointsman.telemetry.logs import log_failure
from pointsman.usercode.paths import enter
from pointsman.wire.address import set_node, tcp_address
from pointsman.wire.auth import ROLE_REPLICA, ROLE_ROUTER
from pointsman.wire.control import ControlLink
from pointsman.wire.failures import describe_failure
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.handover import ReplicaHandover, SpareHandover
from pointsman.wire.messages import SERVED_S, Assignment, ConfigureHead, DrainHead, FailureHead, Report, pack, unpack
from pointsman.wire.scaling import ModelDetails
from pointsman.wire.shared import SharedStream
from pointsman.wire.started import StartedCalls, path_of
from pointsman.wire.stream import Gate, accept, listen_private, listen_tcp

log = logging.getLogger("pointsman.replica")

SWITCH_INTERVAL_S = 0.0005
"""How long sync user code may hold the interpreter while the event loop waits for it. With Python's default of 5 ms a
replica that computes in Python reached 0.87 of its model's throughput, since the next batch gathered too slowly; with
this value, 0.96."""
FULL_COLLECTION_AFTER = 100
"""Third threshold of the garbage collector, in place of 10 (decision 0032). Python also postpones full collections by a
rule that ignores frozen objects; with 10 they ran often, and each visited all calls in flight. User code's constructor
runs later and may set its own."""
RELEASE_LIMIT_S = 1.5
"""How long the finalizers of user code's object may take; then the interpreter exits."""
START_TIMEOUT_S = 3600.0
"""Limit of the first ``reconfigure``. A model may load for long; the controller decides when to give up."""


class ReplicaProcess:
    """Runs a replica from its start to its end.

    Args:
        handover: identity and keys of this replica, from the inherited pipe.
    """

    def __init__(self, handover: ReplicaHandover) -> None:
        self._handover = handover
        self._state = Report(handover.number, "fresh")
        self._state_body = b""
        self._runtime: Runtime | None = None
        self._health: Health | None = None
        self._ready_at = 0.0
        self._metrics = NO_METRICS
        self._applied: bytes | None = None
        self._half_changed = False
        self._tcp = ""
        self._gates: list[Gate] = []
        self._drain_s: float | None = None
        self._hurrying: asyncio.Future[None] | None = None
        self._orders: asyncio.Queue[Frame] = asyncio.Queue()
        self._stopping = asyncio.Event()
        self._link = ControlLink(
            path=handover.control_path,
            locate=locator(handover.control_path),
            instance=handover.instance,
            role=ROLE_REPLICA,
            identity=str(handover.number),
            key=handover.control_key,
            patient=True,
            on_ready=lambda _: self._report(self._state, self._state_body),
            on_frame=self._receive,
            on_gone=self._on_instance_gone,
        )

    async def run(self) -> None:
        """Serve until stopped, then drain, close user code and disconnect."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is for the driver, which then stops its replicas
        orders = loop.create_task(self._execute_orders())
        await self._link.start()
        await self._stopping.wait()
        drained = False
        if self._runtime is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._runtime.drain(), self._drain_s)
                drained = True
            await asyncio.sleep(0)  # the last answers are written at the end of this iteration of the loop
        ending = [task for task in (orders, self._hurrying) if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._runtime is not None and drained:
            await self._end_user_code(self._runtime)
        await asyncio.gather(*(gate.aclose() for gate in self._gates), self._link.aclose())
        self._metrics.close()

    async def _end_user_code(self, runtime: Runtime) -> None:
        """Call the user's ``close``, then release the user's object, so that its finalizers run."""
        assert self._health is not None
        self._health.stop_checks()
        limit_s = runtime.drain_timeout_s if self._drain_s is None else min(self._drain_s, runtime.drain_timeout_s)
        closing = asyncio.ensure_future(runtime.close())
        # `wait` instead of `wait_for`, which would wait for a cancelled task that ignores its cancellation, or that
        # blocks the thread.
        if not (await asyncio.wait([closing], timeout=limit_s))[0]:
            log.error("close() was still running after %g s, its drain limit, and is given up", limit_s)
            return
        error = asyncio.CancelledError("by itself") if closing.cancelled() else closing.exception()
        if error is not None:
            log_failure(log, "close() failed", _failure_of(error)[0].traceback)
        del closing, error  # a traceback keeps the objects in its frames alive
        if not (await asyncio.wait([asyncio.ensure_future(runtime.release_code())], timeout=RELEASE_LIMIT_S))[0]:
            log.warning("the end of user code's object takes more than %g s, and is given up", RELEASE_LIMIT_S)

    def _on_instance_gone(self) -> None:
        self._drain_s = ORPHANED_DRAIN_S
        self._stopping.set()

    def _receive(self, frame: Frame) -> None:
        if frame.kind == Kind.STOP:
            self._stopping.set()
        elif frame.kind == Kind.DRAIN and self._state.patient and self._runtime is not None:
            self._hurry(self._runtime, unpack(frame.head, DrainHead))
        elif frame.kind == Kind.MODELS:
            self._link.answer(frame, pack(self._runtime.models() if self._runtime is not None else ModelDetails()))
        else:
            self._orders.put_nowait(frame)

    def _hurry(self, runtime: Runtime, order: DrainHead) -> None:
        """It drains without a limit, and has one from now on; not if an order is repeated that may have been lost."""
        if order.timeout_s is not None:
            self._report(msgspec.structs.replace(self._state, patient=False))
            self._hurrying = asyncio.ensure_future(runtime.drain())

    async def _execute_orders(self) -> None:
        """Execute the controller's orders one after the other."""
        while True:
            frame = await self._orders.get()
            if frame.kind == Kind.ASSIGN and self._runtime is None:  # otherwise a repeated delivery
                assignment, body = unpack(frame.head, Assignment), memoryview(frame.body)
                code, user_config = bytes(body[: assignment.code_size]), bytes(body[assignment.code_size :])
                await self._start_assignment(assignment, code, user_config or None)
            elif frame.kind == Kind.CONFIGURE and self._runtime is not None:
                await self._reconfigure(unpack(frame.head, ConfigureHead), bytes(frame.body) or None)
            elif frame.kind == Kind.DRAIN and self._runtime is not None:
                # Reported before the drain ends: a new controller must not count on a replica that refuses calls.
                patient = unpack(frame.head, DrainHead).timeout_s is None
                self._report(Report(self._handover.number, "draining", self._state.config_version, patient=patient))
                await self._runtime.drain(patient=patient)
                self._report(Report(self._handover.number, "drained", self._state.config_version))

    async def _start_assignment(self, assignment: Assignment, code: bytes, user_config: bytes | None) -> None:
        self._state = Report(self._handover.number, "starting")
        self._enter_context(assignment)
        folder = metrics_folder(self._handover.control_path)
        self._metrics = open_metrics(folder, assignment.backend, assignment.tag, assignment.start_reason)
        runtime = Runtime(
            assignment.config,
            started=StartedLedger(StartedCalls(path_of(self._handover.address))),
            metrics=self._metrics,
            on_answer=self._on_first_answer,
        )
        try:
            await runtime.load_code(code, assignment.traits)
            if user_config is not None:
                await runtime.reconfigure(user_config, timeout_s=START_TIMEOUT_S)
            await self._listen(runtime)
        except Exception as error:  # noqa: BLE001 - user code: its exception is the report
            self._report_failure(error, Reason.CONSTRUCTOR_FAILED)
            return
        # Freeze the objects of the start: a full collection would scan all of them, which stops the process for tens of
        # milliseconds (decision 0032).
        gc.collect()
        gc.freeze()
        self._runtime, self._applied = runtime, user_config
        self._ready_at = asyncio.get_running_loop().time()
        self._health = Health(self._handover, self._vitals, on_loop=not assignment.traits.one_at_a_time)
        self._health.start(runtime.health_check, runtime.context)
        self._report(Report(self._handover.number, "ready", assignment.config_version))

    async def _listen(self, runtime: Runtime) -> None:
        listeners = [listen_private(self._handover.address)]
        if self._handover.tcp_host:
            listeners.append(listen_tcp(self._handover.tcp_host))
            self._tcp = tcp_address(*listeners[-1].getsockname()[:2])
        self._gates = [
            await accept(listener, runtime, instance=self._handover.instance, key_for=self._key_for, kind=SharedStream)
            for listener in listeners
        ]

    def _enter_context(self, assignment: Assignment) -> None:
        handover = self._handover
        set_replica_context(
            ReplicaContext(
                backend=assignment.backend,
                replica=assignment.tag,
                instance=handover.instance,
                control_path=handover.control_path,
                grant=handover.grant,
                grant_identity=str(handover.number),
                request_timeout_s=handover.request_timeout_s,
            )
        )
        try:
            enter(assignment.origin)
        except OSError as error:
            log.warning("the driver's working directory cannot be entered: %s", error)

    async def _reconfigure(self, order: ConfigureHead, user_config: bytes | None) -> None:
        assert self._runtime is not None
        self._runtime.configure(order.config)
        if self._half_changed and user_config is None:
            error = RuntimeError(
                "a failed reconfigure left this replica half changed, and there is no config to restore"
            )
            self._report_failure(error, Reason.RECONFIGURE_FAILED, order.config_version)
            return
        if user_config is not None and (self._half_changed or user_config != self._applied):
            before, self._half_changed = self._half_changed, True
            try:
                await self._runtime.reconfigure(
                    user_config,
                    timeout_s=order.timeout_s,
                    others=order.others,
                    at_once=order.config.reconfigure_while_running,
                )
            except StillRunningError as error:
                self._half_changed = before
                self._report_failure(error, Reason.RECONFIGURE_TIMEOUT, order.config_version)
                return
            except Exception as error:  # noqa: BLE001 - user code
                self._report_failure(error, Reason.RECONFIGURE_FAILED, order.config_version)
                return
            self._half_changed = False
            self._applied = user_config
        self._report(Report(self._handover.number, "ready", order.config_version))

    def _vitals(self) -> Vitals:
        runtime = self._runtime
        if runtime is None:
            return Vitals()
        models = tuple(hash_of(model.id) for model in runtime.models().models)
        return runtime.vitals(self._handover.request_timeout_s)._replace(models=models)

    def _key_for(self, role: str, identity: str) -> bytes | None:
        return self._handover.data_key if role == ROLE_ROUTER else None

    def _on_first_answer(self) -> None:
        """Report that the replica has served: if it dies from now on, its start had not failed."""
        if self._state.state == "ready":  # repeating another report would have an effect; the next one says it too
            self._report(self._state)

    def _report(self, report: Report, body: bytes = b"") -> None:
        where = {"node": self._handover.node, "address": self._handover.address, "tcp": self._tcp}
        served = self._runtime is not None and (
            self._runtime.has_answered or asyncio.get_running_loop().time() >= self._ready_at + SERVED_S
        )
        self._state, self._state_body = msgspec.structs.replace(report, served=served, **where), body
        self._link.report(self._state, body)

    def _report_failure(self, error: BaseException, reason: Reason, config_version: int = 0) -> None:
        failure, pickled = _failure_of(error)
        if self._handover.quiet_starts and reason is Reason.CONSTRUCTOR_FAILED:
            log.info("%s: %s", reason.value, failure.error)  # not shown on the terminal
        else:
            log_failure(log, reason.value, failure.traceback)
        report = Report(
            self._handover.number,
            "failed",
            config_version,
            reason,
            failure.error,
            failure.text,
            failure.traceback,
        )
        self._report(report, pickled)


def _failure_of(error: BaseException) -> tuple[FailureHead, bytes]:
    raised = error.error if isinstance(error, UserExit) else error
    return describe_failure(raised, with_object=True, portable=http_exception(raised))


def run(handover: ReplicaHandover) -> None:
    """Run a replica until it is stopped. Blocks the main thread."""
    set_node(handover.node)
    set_relay(handover.relay)
    faulthandler.enable(STDERR)  # a crash in native code then leaves its stack in the log
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTION_AFTER)
    run_process(ReplicaProcess(handover).run(), process="replica", log_format=handover.log_format)


def wait(lifeline: Lifeline) -> ReplicaHandover:
    """Wait, as a spare process, until there is a backend; what other replicas import later is imported here before."""
    import concurrent.futures.thread  # noqa: F401

    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401
    spare = lifeline.read(SpareHandover)
    for name in spare.unset:
        os.environ.pop(name, None)
    os.environ.update(spare.variables)
    return unpack_handover(spare.handover, ReplicaHandover)


def main() -> None:
    lifeline = Lifeline.from_argv()
    is_spare = os.environ.pop(SPARE_VARIABLE, None) is not None
    run(wait(lifeline) if is_spare else lifeline.read(ReplicaHandover))


if __name__ == "__main__":
    main()
