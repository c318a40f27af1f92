"""How long a fresh process takes to its first answer, and to import the package."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import msgspec
from peers import SERVERS, free_port

IMPORT = "import time; t = time.perf_counter(); from pointsman import start; print(time.perf_counter() - t)"
TIMEOUT_S = 60


class Startup(msgspec.Struct, frozen=True):
    """One fresh process, in seconds. ``total`` is what a clock on the wall shows; the others are its parts.

    Attributes:
        total: from before the process was made to the first 200, the interpreter and imports included.
        interpreter: until the first line of the script.
        imports: ``import pointsman`` and a few modules of the standard library.
        start: ``serve.start()``.
        create_backend, create_endpoint: these calls.
        first_answer: from the return of ``create_endpoint`` to the first 200.
    """

    total: float
    interpreter: float
    imports: float
    start: float
    create_backend: float
    create_endpoint: float
    first_answer: float


def measure_startup() -> Startup:
    """Start an instance in a fresh process, ask it once, shut it down."""
    spawned = time.monotonic()
    command = [sys.executable, str(SERVERS / "first_answer.py"), str(free_port())]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=TIMEOUT_S)
    marks = msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, float])
    times = [spawned, *(marks[name] for name in ("began", "imported", "started", "backend", "endpoint", "answered"))]
    return Startup(times[-1] - spawned, *(later - earlier for earlier, later in itertools.pairwise(times)))


def measure_import() -> float:
    """Seconds that ``from pointsman import start`` takes in a fresh interpreter; a bare import loads little."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True, timeout=TIMEOUT_S)
    return float(done.stdout)
