"""Runs scripts as ``python SCRIPT`` does, but for the start: each is a fork of this process, which has the imports.

The tests of examples start it once. A line on its standard input has the name of a script and, behind a tab each, the
files for what it prints; the answer is the script's exit code. The script is the ``__main__`` of its process, in the
folder where it lies, and its process ends as that of any script.
"""

from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path

import __main__


def become(script: Path, output: Path, errors: Path) -> None:
    """Take the place that a new process with this script would have."""
    os.chdir(script.parent)
    for number, path, flags in ((0, Path(os.devnull), os.O_RDONLY), (1, output, os.O_WRONLY), (2, errors, os.O_WRONLY)):
        opened = os.open(path, flags | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv[:] = [str(script)]
    sys.path[0] = str(script.parent)
    code = compile(script.read_text(), str(script), "exec")
    names = vars(__main__)
    first = {"__name__": "__main__", "__file__": str(script), "__builtins__": builtins, "__spec__": None}
    names.clear()  # and with them this module's own
    names.update(first)
    exec(code, names)  # what the page shows


def wait_for_scripts() -> None:
    """Serve lines until there are no more."""
    import pointsman as serve

    for name in dir(serve):
        getattr(serve, name)
    for line in sys.stdin:
        script, output, errors = map(Path, line.rstrip("\n").split("\t"))
        child = os.fork()
        if child == 0:
            become(script, output, errors)
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    wait_for_scripts()
