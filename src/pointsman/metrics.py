"""User-defined metrics: recorded inside a backend, and exported at the instance's metrics port.

    self.tokens = metrics.Counter("tokens", "Tokens made.", tag_keys=("language",))
    self.tokens.inc(len(answer), tags={"language": "en"})

Each series also carries the tags ``backend`` and ``replica``, unless the metric has tag keys of these names. Outside a
replica, values are checked in the same way and discarded.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pointsman.context import replica_context
from pointsman.telemetry import families
from pointsman.telemetry import values as kinds
from pointsman.telemetry import writer as telemetry
from pointsman.telemetry.collector import LABEL_NAME, MAX_USER_SERIES, METRIC_NAME, OVERFLOW
from pointsman.telemetry.families import Family, Kind
from pointsman.telemetry.writer import MetricsWriter

__all__ = ["Count", "Counter", "Gauge", "Histogram"]

MAX_BOUNDARIES = 200
MAX_TAG_LENGTH = 1000
MAX_TAGS = 20

C = TypeVar("C", bound=kinds.SeriesValues)


class _Definition(Generic[C]):
    """One metric of this process: its series, and the lock that guards them. Several user objects may share it."""

    def __init__(self, family: Family, make: Callable[..., C]) -> None:
        self.family = family
        self.lock = threading.Lock()
        self._make = make
        self._series: dict[tuple[str, ...], C] = {}
        self._shared: C | None = None
        self._dropped: kinds.Counter | None = None

    def series(self, labels: tuple[str, ...]) -> C:
        """The series with these tags; call with the lock held. Over the limit, all further tags share one series."""
        series = self._series.get(labels)
        if series is not None:
            return series
        if len(self._series) >= MAX_USER_SERIES:
            return self._overflow()
        series = self._series[labels] = self._new(labels)
        return series

    def _overflow(self) -> C:
        if self._shared is None or self._dropped is None:
            self._shared = self._new((OVERFLOW,) * len(self.family.labels))
            self._dropped = _writer().counter(families.DROPPED_SERIES, self.family.name)
        self._dropped.inc()
        return self._shared

    def _new(self, values: tuple[str, ...]) -> C:
        context = replica_context()
        ours = {} if context is None else {"backend": context.backend, "replica": context.replica}
        ours = {name: value for name, value in ours.items() if name not in self.family.labels}
        family = self.family._replace(labels=(*self.family.labels, *ours))
        return self._make(_writer(), family, *values, *ours.values())


_definitions: dict[str, _Definition[Any]] = {}
_private: MetricsWriter | None = None


def _writer() -> MetricsWriter:
    """The replica's metrics writer; outside a replica one whose values are never read."""
    global _private
    writer = telemetry.process_writer() or _private
    if writer is None:
        writer = _private = MetricsWriter(None, "user")
    return writer


class _Metric(Generic[C]):
    _kind: Kind
    _make: Callable[..., C]

    def __init__(
        self, name: str, description: str, tag_keys: tuple[str, ...] | None, boundaries: tuple[float, ...] = ()
    ) -> None:
        if not isinstance(description, str):
            raise TypeError(f"description of metric {name!r} must be a str, not {description!r}")
        family = Family(_checked_name(name), self._kind, description, _checked_keys(tag_keys), boundaries, True)
        known = _definitions.get(name)
        if known is None:
            known = _definitions[name] = _Definition(family, type(self)._make)
        elif known.family._replace(help="") != family._replace(help=""):
            raise ValueError(f"metric {name!r} exists already, with another type, other tag keys or other boundaries")
        self._definition: _Definition[C] = known
        self._arguments: tuple[Any, ...] = (name, description, family.labels)
        self._default_tags: dict[str, str] = {}

    def set_default_tags(self, default_tags: Mapping[str, str]) -> Any:
        """Set values for tags that are not given when a value is recorded.

        Args:
            default_tags: tag key -> value.

        Returns:
            The metric itself.

        Raises:
            ValueError: a tag that the metric does not have.
            TypeError: a value that is no str.
        """
        keys = self._definition.family.labels
        for key, value in default_tags.items():
            if key not in keys:
                raise ValueError(f"metric {self._name!r} has no tag {key!r}; it has {list(keys)}")
            self._check_tag(key, value)
        self._default_tags = dict(default_tags)
        return self

    @property
    def _name(self) -> str:
        return self._definition.family.name

    def _values(self, tags: Mapping[str, str] | None) -> tuple[str, ...]:
        given = {**self._default_tags, **tags} if tags else self._default_tags
        keys = self._definition.family.labels
        if len(given) != len(keys) or any(key not in given for key in keys):
            missing, unknown = [k for k in keys if k not in given], [k for k in given if k not in keys]
            what = f"needs a value for tag {missing[0]!r}" if missing else f"has no tag {unknown[0]!r}"
            raise ValueError(f"metric {self._name!r} {what}; its tags are {list(keys)}")
        for key in keys:
            self._check_tag(key, given[key])
        return tuple(given[key] for key in keys)

    def _check_tag(self, key: str, value: Any) -> None:
        if not isinstance(value, str):
            raise TypeError(f"tag {key!r} of metric {self._name!r} must be a str, not {value!r}")
        if len(value) > MAX_TAG_LENGTH:
            raise ValueError(f"tag {key!r} of metric {self._name!r} has {len(value)} characters, over {MAX_TAG_LENGTH}")

    def _number(self, value: Any) -> float:
        if isinstance(value, bool) or not hasattr(value, "__float__"):
            raise TypeError(f"metric {self._name!r} records numbers, not {value!r}")
        return float(value)

    def __reduce__(self) -> Any:
        # By its arguments: code from a notebook cell may then refer to a metric of that notebook.
        return (_rebuild, (type(self), self._arguments, self._default_tags))


class Counter(_Metric[kinds.Counter]):
    """A count that only grows.

    Args:
        name: the exported name; letters, digits, ``_`` and ``:``.
        description: help text, one line.
        tag_keys: names of the tags that each value is recorded with.

    Raises:
        ValueError: an empty or unfit name, one of Pointsman's own, or one that exists with other tags.
        TypeError: ``tag_keys`` is not a tuple of str.
    """

    _kind = "counter"
    _make = staticmethod(MetricsWriter.counter)

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = ()) -> None:
        super().__init__(name, description, tag_keys)

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Add to the count.

        Args:
            value: how much; not below 0.
            tags: tag key -> value; with the default tags they must be all that the metric has.

        Raises:
            ValueError: a negative value, a missing or an unknown tag.
            TypeError: a value that is no number, or a tag that is no str.
        """
        number, values = self._number(value), self._values(tags)
        if not 0 <= number < math.inf:
            raise ValueError(f"counter {self._name!r} cannot grow by {value!r}")
        with self._definition.lock:
            self._definition.series(values).inc(number)

    def record(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """The same as :meth:`inc`, under the name that all types share.

        Args:
            value: how much; not below 0.
            tags: tag key -> value.

        Raises:
            ValueError, TypeError: as :meth:`inc`.
        """
        self.inc(value, tags)


Count = Counter
"""Name of :class:`Counter` in Ray Serve 1.x."""


class Gauge(_Metric[kinds.Gauge]):
    """A value that goes up and down. Errors as for :class:`Counter`.

    Args:
        name: the exported name; letters, digits, ``_`` and ``:``.
        description: help text, one line.
        tag_keys: names of the tags that each value is recorded with.
    """

    _kind = "gauge"
    _make = staticmethod(MetricsWriter.gauge)

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = ()) -> None:
        super().__init__(name, description, tag_keys)

    def set(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Replace the value.

        Args:
            value: the new value.
            tags: tag key -> value; with the default tags they must be all that the metric has.

        Raises:
            ValueError: a missing or an unknown tag.
            TypeError: a value that is no number, or a tag that is no str.
        """
        number, values = self._number(value), self._values(tags)
        with self._definition.lock:
            self._definition.series(values).set(number)

    def record(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """The same as :meth:`set`, under the name that all types share.

        Args:
            value: the new value.
            tags: tag key -> value.

        Raises:
            ValueError, TypeError: as :meth:`set`.
        """
        self.set(value, tags)


class Histogram(_Metric[kinds.Histogram]):
    """Counts values by size.

    Args:
        name: the exported name; letters, digits, ``_`` and ``:``.
        description: help text, one line.
        boundaries: upper bounds of the buckets, growing; a last bucket takes what is above them. At most 200.
        tag_keys: names of the tags that each value is recorded with.

    Errors as for :class:`Counter`.

    Raises:
        ValueError: also for boundaries that are missing, not finite or not growing.
    """

    _kind = "histogram"
    _make = staticmethod(MetricsWriter.histogram)

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: tuple[str, ...] | None = (),
    ) -> None:
        bounds = _checked_bounds(name, boundaries)
        super().__init__(name, description, tag_keys, bounds)
        self._arguments = (name, description, bounds, self._arguments[-1])

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Count a value.

        Args:
            value: the value to count.
            tags: tag key -> value; with the default tags they must be all that the metric has.

        Raises:
            ValueError: a value that is not finite, a missing or an unknown tag.
            TypeError: a value that is no number, or a tag that is no str.
        """
        number, values = self._number(value), self._values(tags)
        if not math.isfinite(number):
            raise ValueError(f"histogram {self._name!r} cannot count {value!r}")
        with self._definition.lock:
            self._definition.series(values).observe(number)

    def record(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """The same as :meth:`observe`, under the name that all types share.

        Args:
            value: the value to count.
            tags: tag key -> value.

        Raises:
            ValueError, TypeError: as :meth:`observe`.
        """
        self.observe(value, tags)


_OURS = frozenset(family.name for family in families.ALL_FAMILIES)


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a metric's name must be a str, not {name!r}")
    if not METRIC_NAME.fullmatch(name) or len(name) > MAX_TAG_LENGTH:
        raise ValueError(f"{name!r} cannot name a metric: letters, digits, '_' and ':', not a digit first")
    if name in _OURS:
        raise ValueError(f"{name!r} is a metric of Pointsman's own")
    return name


def _checked_keys(keys: Any) -> tuple[str, ...]:
    if keys is None:
        return ()
    if not isinstance(keys, tuple) or not all(isinstance(key, str) for key in keys):
        raise TypeError(f"tag_keys must be a tuple of str, not {keys!r}")
    for key in keys:
        if not LABEL_NAME.fullmatch(key) or key == "le":
            raise ValueError(f"{key!r} cannot be a tag key: letters, digits and '_', not a digit first, and not 'le'")
    if len(set(keys)) < len(keys) or len(keys) > MAX_TAGS:
        raise ValueError(f"tag_keys {keys!r} must be at most {MAX_TAGS} different ones")
    return keys


def _checked_bounds(name: Any, boundaries: Any) -> tuple[float, ...]:
    if not boundaries or isinstance(boundaries, (str, bytes)):
        raise ValueError(f"histogram {name!r} needs boundaries, such as [1, 10, 100]")
    try:
        bounds = tuple(float(bound) for bound in boundaries)
    except TypeError:
        raise TypeError(f"boundaries of histogram {name!r} must be numbers, not {boundaries!r}") from None
    if not all(map(math.isfinite, bounds)) or list(bounds) != sorted(set(bounds)) or len(bounds) > MAX_BOUNDARIES:
        raise ValueError(f"boundaries of histogram {name!r} must be at most {MAX_BOUNDARIES} growing finite numbers")
    return bounds


def _rebuild(kind: type[_Metric[Any]], arguments: tuple[Any, ...], default_tags: dict[str, str]) -> _Metric[Any]:
    return kind(*arguments).set_default_tags(default_tags)  # type: ignore[no-any-return]
