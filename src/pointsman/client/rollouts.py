"""Operations on new versions: comparing one with another, and rollouts, in which it gets more traffic step by step, and
goes back by itself if it does harm. The controller carries rollouts out; here they are started, read, waited for and
controlled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pointsman.arguments import check_object_name, check_timeout
from pointsman.client.operations import Operations, new_id
from pointsman.model.evidence import Numbers, Tally, TallyKey, Window
from pointsman.model.rollout import LARGEST, MOST_STEPS, RolloutPlan, RolloutView
from pointsman.policy.verdict import Piece, as_view, compare
from pointsman.stats.checking import check_count, check_number
from pointsman.wire.messages import unpack
from pointsman.wire.rollouts import (
    ABORT,
    PAUSE,
    PROMOTE,
    RESUME,
    AwaitRollout,
    ControlRollout,
    QueryRollout,
    QueryTallies,
    StartRollout,
)

LONGEST_S = 600.0
"""How long the controller keeps what was counted, for comparisons."""
PIECES = 20
"""Into how many pieces a comparison divides its time, to see bursts."""
STEPS = (0.01, 0.05, 0.25, 0.5, 1.0)


class RolloutOperations(Operations):
    """Rolls new versions out, and watches them."""

    def start_rollout(
        self,
        endpoint: str,
        to: str,
        *,
        steps: Sequence[float] = STEPS,
        hold_s: float = 300,
        min_samples: int = 100,
        gates: Mapping[str, Mapping[str, Any]] | None = None,
        alpha: float = 0.05,
        patience: float = 10,
        on_inconclusive: str = "hold",
    ) -> dict[str, Any]:
        """Give a backend more of an endpoint's traffic step by step. If a gate finds harm beyond doubt, the former
        weights are restored at once.

        Returns when the first step is in force. The controller does the rest, whatever becomes of this process.

        Args:
            endpoint: name of the endpoint.
            to: tag of the backend; it needs no weight yet.
            steps: its weights, rising, above 0 and at most 1. The others share the rest as they do now.
            hold_s: how long each step lasts at least, in seconds.
            min_samples: how many requests ``to`` must have answered in a step.
            gates: what is watched, by name, each with its options; ``{}`` for the defaults of these. Default:
                ``error_rate``, ``latency`` and ``health``.

                - ``"error_rate"``: ``max_ratio`` (1.0) and ``slack`` (0.001): errors per request may be ``max_ratio``
                  times those of the others, plus ``slack``; ``burst_s`` (0): seconds that failures in a row take, where
                  they come in bursts; ``rule_out``: a step also lasts until this ratio of errors is ruled out.
                - ``"latency"``: quantiles and how many times those of the others are allowed, such as
                  ``{"p99": 1.05}``, the default; ``burst_s`` (10).
                - ``"mismatch"``: ``slack`` (0.005); ``to`` must be a shadow of the endpoint that compares.
                - ``"metrics"``: metrics of user code by name, each with ``better``, ``"higher"`` or ``"lower"``, and
                  ``max_loss``.
                - ``"health"``: goes back when ``to`` is ``UNHEALTHY``.
            alpha: the probability that the whole rollout goes back although ``to`` does no harm.
            patience: a step that takes ``patience * hold_s`` seconds is inconclusive.
            on_inconclusive: ``"hold"`` stays at the step and goes on judging, ``"rollback"`` goes back.

        Returns:
            What :meth:`rollout` returns.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: an argument is out of its range, a gate or option is unknown, endpoint or backend do not exist,
                the endpoint has a traffic policy of your own, or a rollout that has not ended. Nothing has changed.
        """
        plan = RolloutPlan(
            check_object_name(endpoint, "endpoint"),
            check_object_name(to, "to"),
            _steps(steps),
            check_number(hold_s, "hold_s"),
            _samples(min_samples),
            _gates(gates),
            check_number(alpha, "alpha"),
            check_number(patience, "patience"),
            _choice(on_inconclusive),
        )
        self._change(StartRollout(new_id(), plan))
        return self.rollout(endpoint)

    def rollout(self, endpoint: str) -> dict[str, Any]:
        """The newest rollout of an endpoint.

        Args:
            endpoint: name of the endpoint.

        Returns:
            ``{"id", "plan", "state", "step", "weight", "held_s", "samples", "exposed", "gates", "reason", "began",
            "ended", "by", "waits_for"}``: ``state`` is ``running``, ``paused``, ``inconclusive``, ``promoted``,
            ``rolled_back``, ``aborted`` or ``superseded`` (somebody has set other traffic); ``step`` which of
            ``plan["steps"]``, from 0;
            ``weight`` the share that the new version has now; ``held_s`` seconds that the step has lasted; ``samples``
            requests of this step, ``{"baseline", "canary"}``; ``exposed`` requests that the new version has answered in
            all steps; ``gates`` by name ``{"value", "baseline", "unit", "e", "needed", "tripped"}``: what is watched of
            the new version and of the others, the evidence ``e``, from 1, and what it takes to trip; ``reason`` why it
            is in this state; ``began`` and ``ended`` ISO 8601 in UTC, ``ended`` empty until then; ``waits_for`` what
            the step lacks to be over, in words.

        Raises:
            TypeError, ValueError: ``endpoint`` is no name of one, or it has had no rollout.
        """
        self._check_alive()
        command = QueryRollout(new_id(), check_object_name(endpoint, "endpoint"))
        return rollout_view(unpack(self._session.command(command), RolloutView))

    def wait_for_rollout(self, endpoint: str, timeout: float | None = None) -> dict[str, Any]:
        """Wait until the newest rollout of an endpoint has ended, or is inconclusive, which somebody must decide.

        Args:
            endpoint: name of the endpoint.
            timeout: the longest wait in seconds; None for no limit.

        Returns:
            What :meth:`rollout` returns. Its ``state`` says how it ended: going back is no error here.

        Raises:
            TimeoutError: it goes on after that time.
            TypeError, ValueError: an argument is wrong, or the endpoint has had no rollout.
        """
        self._check_alive()
        name = check_object_name(endpoint, "endpoint")
        command = AwaitRollout(new_id(), name, check_timeout(timeout, "timeout"))
        return rollout_view(unpack(self._session.command(command), RolloutView))

    def pause_rollout(self, endpoint: str) -> None:
        """Keep the present weight until :meth:`resume_rollout`. A gate that trips still goes back.

        Args:
            endpoint: name of the endpoint.

        Raises:
            TypeError, ValueError: ``endpoint`` is no name of one, or none of its rollouts is under way.
        """
        self._control(endpoint, PAUSE)

    def resume_rollout(self, endpoint: str) -> None:
        """Let a paused rollout go on. After new code on either side the evidence from before is forgotten.

        Args:
            endpoint: name of the endpoint.

        Raises:
            TypeError, ValueError: as :meth:`pause_rollout`.
        """
        self._control(endpoint, RESUME)

    def promote_rollout(self, endpoint: str) -> None:
        """Take the last step's weight at once, whatever the gates say.

        Args:
            endpoint: name of the endpoint.

        Raises:
            TypeError, ValueError: as :meth:`pause_rollout`.
        """
        self._control(endpoint, PROMOTE)

    def abort_rollout(self, endpoint: str) -> None:
        """Restore the weights from before the rollout.

        Args:
            endpoint: name of the endpoint.

        Raises:
            TypeError, ValueError: as :meth:`pause_rollout`.
        """
        self._control(endpoint, ABORT)

    def compare_traffic(self, endpoint: str, baseline: str, canary: str, over_s: float = LONGEST_S) -> dict[str, Any]:
        """Two backends of an endpoint side by side, by what routers have counted of both: requests by HTTP and by
        handle that the traffic policy has split between them, without pinned ones and copies for shadows.

        Args:
            endpoint: name of the endpoint.
            baseline, canary: tags of the two.
            over_s: how many of the last seconds count, at most 600. What came before both answered, or after one had
                stopped, is left out.

        Returns:
            ``{"endpoint", "over_s", "seconds", "baseline", "canary", "differences", "harm", "verdict"}``: ``seconds``
            that count; of each backend ``backend``, ``requests``, ``errors``, ``error_rate`` and ``latency_ms``
            (``p50``, ``p95``, ``p99``, ``mean``; to the first byte of the answer); ``differences`` of ``errors``
            (canary less baseline, in errors per request), ``p50``, ``p95`` and ``p99`` (canary / baseline - 1), each
            ``{"value", "low", "high", "verdict"}`` with an interval whose ends are None where nothing limits them, and
            ``verdict`` ``"worse"``, ``"slightly worse"``, ``"better"`` or ``"no difference seen"``; ``harm`` whether
            any is ``"worse"``: beyond doubt, and by more than 0.1 points of errors or 5 % of latency, as in a rollout;
            ``verdict`` all of it in one sentence. All intervals together miss in 5 % of cases at most, also when one
            asks again and again.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: ``over_s`` is not above 0 or more than 600, the endpoint or a backend does not exist, or both
                are one.
        """
        name, first, second = (
            check_object_name(given, what)
            for given, what in ((endpoint, "endpoint"), (baseline, "baseline"), (canary, "canary"))
        )
        seconds = check_timeout(over_s, "over_s")
        if seconds is None or seconds > LONGEST_S:
            raise ValueError(f"over_s must be a number of seconds, at most {LONGEST_S:g}, not {over_s!r}")
        if first == second:
            raise ValueError(f"baseline and canary are both {first!r}; give two backends")
        there = self._status().backends
        for tag in (first, second):
            if tag not in there:
                raise ValueError(f"backend {tag!r} does not exist; there are {sorted(there)}")
        ages = tuple(seconds * part / PIECES for part in range(PIECES, 0, -1))
        numbers = unpack(self._session.command(QueryTallies(new_id(), ages, name, (first, second))), Numbers)
        pieces = pieces_of(numbers.windows, TallyKey(name, 0, first), TallyKey(name, 0, second))
        return {"endpoint": name, "over_s": seconds, **as_view(compare(first, second, pieces))}

    def _control(self, endpoint: str, verb: str) -> None:
        self._change(ControlRollout(new_id(), check_object_name(endpoint, "endpoint"), verb))


def rollout_view(view: RolloutView) -> dict[str, Any]:
    """A rollout as plain dicts that are ready for JSON."""
    plain: dict[str, Any] = msgspec.to_builtins(view)
    return plain


def pieces_of(windows: Sequence[Window], baseline: TallyKey, canary: TallyKey) -> list[Piece]:
    """Windows that all end now, the longest first, as pieces of time, the oldest first."""
    pieces = []
    for window, later in zip(windows, (*windows[1:], Window(0.0, {})), strict=True):
        seconds = (window.seconds or 0.0) - (later.seconds or 0.0)
        if seconds > 0:  # else both begin at one reading
            pieces.append(Piece(_before(window, later, baseline), _before(window, later, canary), seconds))
    return pieces


def _before(window: Window, later: Window, key: TallyKey) -> Tally:
    return window.tallies.get(key, Tally()).since(later.tallies.get(key, Tally()))


def _steps(steps: Any) -> tuple[float, ...]:
    if not isinstance(steps, (list, tuple)):
        raise TypeError(f"steps must be a list of weights such as [0.05, 1.0], not {steps!r}")
    if len(steps) > MOST_STEPS:  # the message would be too long to send
        raise ValueError(f"steps must have at most {MOST_STEPS} weights, not {len(steps)}")
    return tuple(check_number(weight, "each of steps") for weight in steps)


def _samples(count: Any) -> int:
    samples = check_count(count, "min_samples")
    if samples > LARGEST:
        raise ValueError(f"min_samples must be at most {LARGEST:g}, not {count!r:.40}")
    return samples


def _gates(gates: Any) -> dict[str, dict[str, Any]]:
    """Gates as plain values. Which there are, and what they take, the controller knows."""
    if gates is None:
        return {}
    if not isinstance(gates, Mapping):
        raise TypeError(f"gates must be a dict of gate to options, not {gates!r}")
    if not gates:
        raise ValueError("gates is empty; leave it out for error_rate, latency and health")
    for name, options in gates.items():
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise TypeError(f"gates must be a dict of gate to options such as {{'latency': {{}}}}, not {gates!r}")
    return {name: _options(name, options) for name, options in gates.items()}


def _options(of: str, options: Mapping[Any, Any]) -> dict[str, Any]:
    """Options of a gate, or of one of its metrics, as values that can be sent."""
    plain: dict[str, Any] = {}
    for name, value in options.items():
        if not isinstance(name, str):
            raise TypeError(f"options of {of} are named by str, such as 'p99', not by {name!r}")
        if isinstance(value, Mapping):
            plain[name] = _options(f"{of}.{name}", value)
        elif value is None or isinstance(value, (bool, str)):
            plain[name] = value
        else:
            plain[name] = check_number(value, f"{name} of {of}")
    return plain


def _choice(on_inconclusive: Any) -> str:
    if not isinstance(on_inconclusive, str):
        raise TypeError(f"on_inconclusive must be 'hold' or 'rollback', not {on_inconclusive!r}")
    return on_inconclusive
