"""Load by ``wrk``: one thread, keep-alive connections, the same POST of two bytes for every system."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec

BODY = "{}"
"""Mosec takes POST only, and calls its worker only for a body that is not empty."""

RESULT = "RESULT "
"""Begins the line that a script prints at its end."""
SCRIPT = f"""
wrk.method = "POST"
wrk.body = "{BODY}"
wrk.headers["Content-Type"] = "application/json"

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\\n{RESULT}{{"requests":%d,"duration_us":%d,"p50_us":%.0f,"p99_us":%.0f,"not_ok":%d,"socket_errors":%d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"""


_CHANGING = """
local ready, at = {}, 0

function init(args)
  for i = 1, %d do
    wrk.headers["%s"] = string.format("user-%%06d", (i * 7919) %% 1000000)
    ready[i] = wrk.format()
  end
end

function request()
  at = at %% #ready + 1
  return ready[at]
end
"""
CHANGING_VALUES = 4096
"""Enough that they split evenly, few enough that the requests are made before the load begins."""


class Load(msgspec.Struct, frozen=True):
    """What ``wrk`` counted. ``not_ok`` are answers of status 400 and up; timeouts are among ``socket_errors``."""

    requests: int
    duration_us: int
    p50_us: float
    p99_us: float
    not_ok: int
    socket_errors: int

    @property
    def requests_per_s(self) -> float:
        return self.requests / (self.duration_us / 1e6)


def missing() -> bool:
    return shutil.which("wrk") is None


def version() -> str:
    """The first line of ``wrk -v``, which exits with 1."""
    done = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False, timeout=10)
    return (done.stdout or done.stderr).partition("\n")[0].partition(" Copyright")[0].strip()


def run(url: str, *, connections: int, seconds: float, header: str = "") -> Load:
    """Load ``url`` for a while.

    Args:
        header: one more header of that name, with a value that changes from request to request. The requests are made
            beforehand and taken in turn, so that ``wrk`` has the same little work for every name.

    Raises:
        RuntimeError: ``wrk`` failed, or printed no result.
    """
    script = SCRIPT + (_CHANGING % (CHANGING_VALUES, header) if header else "")
    return msgspec.json.decode(execute(script, url, connections=connections, seconds=seconds), type=Load)


def execute(script: str, url: str, *, connections: int, seconds: float) -> str:
    """Load ``url`` as a Lua script says, and return what follows ``RESULT`` in its output.

    Raises:
        RuntimeError: ``wrk`` failed, or printed no result.
    """
    whole_seconds = max(1, round(seconds))
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as folder:
        path = Path(folder, "load.lua")
        path.write_text(script)
        words = command(str(path), url, connections=connections, seconds=whole_seconds)
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=whole_seconds + 30)
    return result_of(words, done.stdout + done.stderr)


def command(script: str, url: str, *, connections: int, seconds: int) -> list[str]:
    """The words of a command that runs the script in that file."""
    how = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "5s"]
    return [*how, "--script", script, url]


def result_of(words: list[str], output: str) -> str:
    """What follows ``RESULT`` in a command's output.

    Raises:
        RuntimeError: there is none.
    """
    for line in output.splitlines():
        if line.startswith(RESULT):
            return line.removeprefix(RESULT)
    raise RuntimeError(f"{' '.join(words)} failed:\n{output}")
