"""Metrics as text: Prometheus's own format, and OpenMetrics for those who ask for it. Pure.

OpenMetrics wants counters to end in ``_total``. The seed's do not, and their names are a promise; there they are of
type ``unknown``, which says nothing wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from pointsman.telemetry.collector import Labels, Metric, Numbers

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TOTAL = "_total"

_LABEL = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def render(metrics: Mapping[str, Metric], *, openmetrics: bool = False) -> bytes:
    """All metrics, sorted by name and labels."""
    lines: list[str] = []
    for name in sorted(metrics):
        lines += _metric(metrics[name], openmetrics)
    if openmetrics:
        lines.append("# EOF")
    lines.append("")
    return "\n".join(lines).encode()


def _metric(metric: Metric, openmetrics: bool) -> Iterator[str]:
    about = metric.about
    family = name = about.name
    kind: str = "gauge" if about.kind == "largest" else about.kind
    if openmetrics and kind == "counter":
        if name.endswith(TOTAL):
            family = name.removesuffix(TOTAL)
        else:
            kind = "unknown"
    yield f"# HELP {family} {about.help.translate(_LABEL if openmetrics else _HELP)}"
    yield f"# TYPE {family} {kind}"
    for labels in sorted(metric.series):
        numbers = metric.series[labels]
        if kind == "histogram":
            yield from _histogram(name, labels, about.bounds, numbers)
        else:
            yield f"{name}{_braces(labels)} {_number(numbers[0])}"


def _histogram(name: str, labels: Labels, bounds: Iterable[float], numbers: Numbers) -> Iterator[str]:
    inside = ",".join(f'{key}="{value.translate(_LABEL)}"' for key, value in labels)
    comma = "," if inside else ""
    counts = list(accumulate(numbers[:-1]))
    for bound, count in zip((*bounds, math.inf), counts, strict=True):
        yield f'{name}_bucket{{{inside}{comma}le="{_number(bound)}"}} {_number(count)}'
    braces = f"{{{inside}}}" if inside else ""
    yield f"{name}_count{braces} {_number(counts[-1])}"
    yield f"{name}_sum{braces} {_number(numbers[-1])}"


def _braces(labels: Labels) -> str:
    return "{" + ",".join(f'{key}="{value.translate(_LABEL)}"' for key, value in labels) + "}" if labels else ""


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
