"""Asks users' policies how many replicas a backend needs (AS13). Each runs in a process of its own, limited in time and
memory: one that hangs or dies takes nothing along, and the built-in rule decides meanwhile.

A look asks, and the next one, half a second later, has the answer. The controller's loop never waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from pointsman.controller.scaling.policyprocess import Answer, Question
from pointsman.engine.limited import READY, START_S, LimitedProcess
from pointsman.model.scaling import ScalingPolicy
from pointsman.policy.scaling.context import PolicyContext, Said

log = logging.getLogger("pointsman")

PROCESS = "pointsman.controller.scaling.policyprocess"
LIMIT_S = 1.0
"""How long an answer may take."""
AGAIN_S, MOST_AGAIN_S = 1.0, 30.0
"""After a failure the process is started again so much later; each further one in a row doubles that."""


class Policies:
    """The policies of all backends that have one. For one event loop.

    Args:
        limit_s: how long an answer may take.
        start: makes a process; for tests.
    """

    def __init__(
        self, limit_s: float = LIMIT_S, start: Callable[[str, bytes], LimitedProcess] = LimitedProcess
    ) -> None:
        self._limit_s = limit_s
        self._start = start
        self._asked: dict[str, _Policy] = {}

    def said(self, tag: str) -> Said:
        """What the policy of a backend has said last."""
        policy = self._asked.get(tag)
        return policy.said if policy is not None else Said()

    def ask(self, tag: str, policy: ScalingPolicy, version: int, context: PolicyContext) -> None:
        """Ask the policy of a backend, unless it is still busy with the last question.

        Args:
            version: of the backend's configuration: with another one the policy is imported anew.
        """
        present = self._asked.get(tag)
        if present is None or (present.policy, present.version) != (policy, version):
            self._forget(tag)
            present = self._asked[tag] = _Policy(tag, policy, version, self._limit_s, self._start)
        present.ask(context)

    def keep(self, tags: Collection[str]) -> None:
        """End the policies of all backends but these."""
        for tag in [tag for tag in self._asked if tag not in tags]:
            self._forget(tag)

    def close(self) -> None:
        """End all of them."""
        self.keep(())

    def _forget(self, tag: str) -> None:
        policy = self._asked.pop(tag, None)
        if policy is not None:
            policy.close()


class _Policy:
    """One backend's policy. Its process is used on one thread only, which waits for it."""

    def __init__(
        self,
        tag: str,
        policy: ScalingPolicy,
        version: int,
        limit_s: float,
        start: Callable[[str, bytes], LimitedProcess],
    ) -> None:
        self.policy = policy
        self.version = version
        self.said = Said()
        self._tag = tag
        self._limit_s = limit_s
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pointsman-policy")
        self._process: LimitedProcess | None = None
        self._state = b""
        self._busy = self._closed = False
        self._failures = 0
        self._next_start = float("-inf")

    def ask(self, context: PolicyContext) -> None:
        if self._busy or (self._process is None and self._loop.time() < self._next_start):
            return
        self._busy = True
        question = msgspec.msgpack.encode(Question(context, self._state))
        asked = self._thread.submit(self._ask, question)
        asked.add_done_callback(self._hand_over)

    def close(self) -> None:
        """End the process and the thread, which no one waits for."""
        self._closed = True
        if self._process is not None:
            self._process.signal_end()
        self._thread.submit(self._end)
        self._thread.shutdown(wait=False)

    # On the thread

    def _ask(self, question: bytes) -> Answer:
        process = self._process
        if process is None:
            try:
                process = self._process = self._start(PROCESS, msgspec.msgpack.encode(self.policy))
            except OSError as error:
                return Answer(problem=f"its process cannot be started: {error}")
            ready = b"" if self._closed else process.read(START_S)
            if ready != READY:
                self._end()
                return Answer(problem=ready.decode() if ready else _silence(ready, "import", START_S))
        answer = process.ask_message(question, self._limit_s)
        if answer:
            try:
                return msgspec.msgpack.decode(answer, type=Answer)
            except msgspec.DecodeError:
                answer = b""  # user code has written to our socket
        self._end()
        return Answer(problem=_silence(answer, "answer", self._limit_s))

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def _hand_over(self, asked: Future[Answer]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answered, asked.result())
        except RuntimeError as error:  # the loop is closed: the controller ends
            log.debug("an answer of policy %r comes too late: %s", self.policy.path, error)

    # On the loop

    def _answered(self, answer: Answer) -> None:
        self._busy = False
        if self._closed:
            return
        if not answer.problem:
            self._failures = 0
            self._state = answer.state
            self.said = Said(answer.wants)
            return
        if self._process is None:
            self._failures += 1
            pause_s = min(MOST_AGAIN_S, AGAIN_S * 2 ** min(self._failures - 1, 10))
            self._next_start = self._loop.time() + pause_s
        remark = f"policy {self.policy.path!r} is not followed, and the built-in rule decides: {answer.problem}"
        if remark != self.said.remark:
            log.warning("backend %r: %s", self._tag, remark)
        self.said = Said(None, remark)


def _silence(answer: bytes | None, what: str, limit_s: float) -> str:
    """Why there is no answer."""
    return f"its {what} takes over {limit_s:g} s" if answer is None else "its process has ended"
