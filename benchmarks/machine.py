"""What a reader must know of a machine to make sense of figures measured on it."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path

import wrk

PACKAGES = ("pointsman", "uvicorn", "uvloop", "httptools", "starlette", "msgspec")

Facts = dict[str, str | int | float]


def facts(**others: str) -> Facts:
    """The machine as it is now, and versions; ``others`` are facts that only the caller knows."""
    known: Facts = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpus": os.cpu_count() or 0,
        "cpu": cpu_name(),
        "system": f"{platform.system()} {platform.release()}",
        "load_average_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "wrk": wrk.version(),
    }
    return known | others | {name: version(name) for name in PACKAGES}


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
