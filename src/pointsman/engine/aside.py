"""The files of stored state as they were before another release took the instance over, and their way back.

    before-upgrade   a copy of them, whole: it is made beside and renamed
    going-back       the same while they are put in place again; whoever finds it does that to the end

Whatever ends in the middle, and the machine too, leaves either the state of before or that of after.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from pointsman.engine.folder import BEFORE_UPGRADE, DATABASE

GOING_BACK = "going-back"
FRESH, OVER, BACK = ".new", ".over", ".back"


def keep_state(folder: Path) -> None:
    """Copy the files of the state, which nobody writes. On an error the copies of before are still there.

    Raises:
        OSError: they cannot be copied.
    """
    aside, fresh = folder / BEFORE_UPGRADE, folder / (BEFORE_UPGRADE + FRESH)
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(mode=0o700)
        for path in folder.glob(DATABASE):
            _sync(shutil.copy2(path, fresh / path.name))
        _sync(fresh)
        if aside.is_dir():
            shutil.rmtree(aside)
        os.rename(fresh, aside)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def bring_back(folder: Path) -> None:
    """Put these copies back in the place of what has come since.

    Raises:
        OSError: they cannot be put there.
    """
    os.rename(folder / BEFORE_UPGRADE, folder / GOING_BACK)
    try:
        finish_return(folder)
    except OSError:
        # The instance goes on with what is there; the next start must not take it back.
        with contextlib.suppress(OSError):
            os.rename(folder / GOING_BACK, folder / BEFORE_UPGRADE)
        raise


def finish_return(folder: Path) -> None:
    """Put the copies back if that was begun.

    Raises:
        OSError: they cannot be put there.
    """
    aside, over = folder / GOING_BACK, folder / (GOING_BACK + OVER)
    if not aside.is_dir():
        return
    kept = {path.name: folder / (path.name + BACK) for path in aside.glob(DATABASE)}
    for name, back in kept.items():
        back.unlink(missing_ok=True)
        try:
            os.link(aside / name, back)  # which a full disk permits
        except OSError:
            _sync(shutil.copy2(aside / name, back))
    for path in folder.glob(DATABASE):
        if path.name not in kept and path.suffix != BACK:
            path.unlink()
    for name, back in kept.items():
        os.replace(back, folder / name)
        back.unlink(missing_ok=True)  # both were one file already: then nothing is replaced
    _sync(folder)
    shutil.rmtree(over, ignore_errors=True)
    os.rename(aside, over)
    shutil.rmtree(over, ignore_errors=True)


def _sync(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
