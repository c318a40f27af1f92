"""Spawning one child process, of the supervisor or of an actor: pipes, environment, a session of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

from pointsman.model import Environment


class Child:
    """A running process of ours."""

    def __init__(
        self, process: subprocess.Popen[bytes], lifeline: int, role: str, number: int, note: bytes = b""
    ) -> None:
        self.process = process
        self.lifeline = lifeline
        self.role = role
        self.number = number
        self.note = note
        self.started = time.monotonic()

    def signal(self, signum: int) -> None:
        """Ask the process, or kill its whole group, so that what user code forked goes too. The dead are left alone.

        What user code forked is not asked: it may still be needed for the requests that the process finishes.
        """
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if signum == signal.SIGKILL:
                    os.killpg(self.process.pid, signum)
                else:
                    self.process.send_signal(signum)

    def bury(self) -> str:
        """It has exited: end what its user code has forked, which must not outlive it, and say how it went."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        os.close(self.lifeline)
        code = self.process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def spawn(
    python: str,
    role: str,
    number: int,
    handover: bytes,
    *,
    env: dict[str, str],
    fds: tuple[int, ...],
    environment: Environment | None = None,
) -> tuple[Child, int]:
    """Start ``python -m pointsman.<role>`` with a lifeline that carries ``handover``.

    Args:
        env: variables that win over inherited ones.
        environment: gives the interpreter in place of ``python``, and variables; ``env`` wins over those too.

    Returns:
        The child, and the descriptor from which its output is read.

    Raises:
        OSError: the process could not be started.
    """
    read_end, write_end = os.pipe()
    try:
        output_read, output_write = os.pipe()
    except OSError:
        os.close(read_end)
        os.close(write_end)
        raise
    try:
        process = subprocess.Popen(
            [environment.python if environment else python, "-m", f"pointsman.{role}", str(read_end), *map(str, fds)],
            stdin=subprocess.DEVNULL,
            stdout=output_write,
            stderr=output_write,
            cwd="/",  # so that no module of the user's folder shadows one that we import
            env={**(environment.over(os.environ) if environment else os.environ), **env},
            pass_fds=(read_end, *fds),
            start_new_session=True,
        )
    except BaseException:
        os.close(write_end)
        os.close(output_read)
        raise
    finally:
        os.close(read_end)
        os.close(output_write)
    with contextlib.suppress(BrokenPipeError):  # it has died already, which its exit will tell
        os.write(write_end, handover)
    return Child(process, write_end, role, number), output_read
