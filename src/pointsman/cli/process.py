"""What the process of a command has to do before it is one: handle the signals that ask it to end, and, as the first
process of a container, leave the command to a child.

That first process has two duties that no other has: it reaps orphans, and it passes on signals. In the child nothing is
different from anywhere else (decision 0071).
"""

from __future__ import annotations

import os
import signal
from types import FrameType

FIRST = 1
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asks this command to end. ``signum`` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


def let_signals_unwind() -> None:
    """Make the first two signals raise KeyboardInterrupt: the first ends what this process has started in good order,
    the second cuts that short.

    Further ones are ignored: they would interrupt the clean-up. SIGTERM, which service managers send, and SIGHUP, which
    a closed terminal sends, count as Ctrl-C.
    """
    left = 2

    def unwind(signum: int, _: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            ignore_signals()
        raise Interrupted(signum)

    for signum in SIGNALS:
        if signal.getsignal(signum) != signal.SIG_IGN:  # nohup and a shell's & ignore signals on purpose
            signal.signal(signum, unwind)


def ignore_signals() -> None:
    """Ignore them from now on."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def become_init() -> None:
    """In the first process of a container: fork. The child returns, and this process ends with it and as it does. In
    any other process: do nothing.

    Called before there are threads.
    """
    if os.getpid() != FIRST:
        return
    wanted = set(PASSED_ON)
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)  # none gets lost before there is somebody to pass it on to
    child = os.fork()
    if not child:
        if os.environ.get("LISTEN_PID") == str(FIRST):
            os.environ["LISTEN_PID"] = str(os.getpid())
        _take_terminal()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
        return

    def pass_on(signum: int, frame: FrameType | None) -> None:
        try:
            os.kill(child, signum)
        except ProcessLookupError:
            pass  # it is being reaped

    for signum in PASSED_ON:
        signal.signal(signum, pass_on)
    _close_all()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, wanted)
    os._exit(_reap_until(child))


def _take_terminal() -> None:
    """A group of its own: Ctrl-C reaches the command once, by the terminal, and not again by the first process."""
    os.setpgid(0, 0)
    try:
        if os.isatty(0):
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(0, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    except OSError:
        pass  # it is not the controlling terminal, so no Ctrl-C comes from it


def _close_all() -> None:
    """Let go of what only the command needs: a socket or pipe that stayed open here would never be seen to close."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                pass  # it was that of the listing itself


def _reap_until(child: int) -> int:
    """Reap every process that ends, until the command has; returns its exit code."""
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
