"""One comparison in the process beside a router: compares pairs, counts what comes of them, and keeps examples.

Answers of handles are pickles. They are read without any class, so that unpickling runs no code here.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any, NoReturn

from pointsman.comparer.limits import FunctionRunner, TooSlowError, limited
from pointsman.comparing.answers import Answer
from pointsman.comparing.pairs import MATCH, Outcome, compare_answers
from pointsman.model.comparison import Function
from pointsman.stats.latency import bucket_of
from pointsman.telemetry.pairs import MATCHED, MISMATCHED, RATIO, UNCOMPARED, CountKey, PairCounter
from pointsman.wire.pairs import Began, Missed, Pair, Sides

OBJECTS, TOO_SLOW = "objects", "too_slow"
"""Why a pair is not compared: a handle's answer is no plain data; comparing has taken over 1 s."""


class Subject:
    """One comparison: its counts, its examples, and the user's function if it has one."""

    def __init__(self, folder: Path, began: Began) -> None:
        self._comparison = began.comparison
        self._counter = PairCounter(folder / began.comparison.name)
        by = began.comparison.by
        self._runner = FunctionRunner(by, self._record) if isinstance(by, Function) else None

    def take(self, message: Pair | Missed) -> None:
        if isinstance(message, Missed):
            self._count(message.sides, "", UNCOMPARED, message.reason, message.count)
            return
        ratio = message.shadow_s / message.primary_s if message.primary_s and message.shadow_s else 0.0
        if ratio and not message.sides.noise:
            self._count(message.sides, "", RATIO, str(bucket_of(ratio)))
        try:
            pair = _as_http(message)
        except NotPlainError:
            self._record(message, Outcome(uncompared=OBJECTS))
            return
        if pair.pickled:
            self._record(pair, MATCH)
        elif self._runner is not None:
            self._runner.put(pair)
        else:
            self._record(pair, self._compare(pair))

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
        self._counter.close()

    def _compare(self, pair: Pair) -> Outcome:
        try:
            with limited():
                return compare_answers(self._comparison.by, pair.primary, pair.shadow)
        except TooSlowError:
            return Outcome(uncompared=TOO_SLOW)

    def _record(self, pair: Pair, outcome: Outcome) -> None:
        if outcome.uncompared:
            self._count(pair.sides, "", UNCOMPARED, outcome.uncompared)
        elif outcome.kind:
            self._count(pair.sides, pair.route, MISMATCHED, outcome.kind)
        else:
            self._count(pair.sides, pair.route, MATCHED)

    def _count(self, sides: Sides, route: str, what: str, detail: str = "", by: int = 1) -> None:
        key = CountKey(sides.primary, sides.primary_version, sides.shadow_version, sides.noise, route, what, detail)
        self._counter.count(key, by)


def _as_http(pair: Pair) -> Pair:
    """The same with what is in the pickles. Equal pickles that have more than plain data stay as they are.

    Raises:
        NotPlainError: they are not equal, and one has more than plain data.
    """
    if not pair.pickled:
        return pair
    try:
        primary, shadow = plain_answer(pair.primary), plain_answer(pair.shadow)
    except NotPlainError:
        if pair.primary.body == pair.shadow.body:
            return pair
        raise
    return Pair(
        pair.number, pair.sides, pair.route, pair.request_id, False, primary, shadow, pair.primary_s, pair.shadow_s
    )


class NotPlainError(Exception):
    """An answer has objects, or large buffers, and not only plain data."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise NotPlainError

    def persistent_load(self, pid: Any) -> NoReturn:
        raise NotPlainError


def plain_answer(answer: Answer) -> Answer:
    """The answer as HTTP would carry it: text, bytes or JSON; a stream's items as a list.

    Raises:
        NotPlainError: the pickle has classes, or what is no JSON.
    """
    if answer.error:
        return answer
    values = _values(answer.body)
    value = values[0] if len(values) == 1 else values
    if isinstance(value, str):
        return Answer(answer.status, "text/plain", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, (bytes, bytearray)):
        return Answer(answer.status, "application/octet-stream", bytes(value))
    try:
        return Answer(answer.status, "application/json", json.dumps(value).encode())
    except (TypeError, ValueError, RecursionError):
        raise NotPlainError from None


def _values(data: bytes) -> list[Any]:
    source, values = io.BytesIO(data), []
    try:
        while source.tell() < len(data):
            values.append(_Unpickler(source).load())
    except NotPlainError:
        raise
    except Exception:  # noqa: BLE001 - a pickle that is none fails in any way
        raise NotPlainError from None
    return values
