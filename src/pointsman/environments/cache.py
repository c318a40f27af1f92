"""What is kept between runs for this user: folders of links, and environments made from requirements."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from pointsman.engine.folder import make_private, runtime_folder


def cache_folder(name: str) -> Path:
    """A private folder of that name in the user's cache; made on first use. Where there is no home folder that can be
    written to, it lives as long as the machine runs."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = make_private((Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "pointsman")
    except (OSError, RuntimeError):
        root = make_private(runtime_folder() / ".cache")
    return make_private(root / name)


def link_folder(*targets: str) -> str:
    """A folder with nothing but links to packages or modules, so that an import path can have them without all that
    lies beside them.

    Args:
        targets: absolute paths with different last parts.
    """
    digest = hashlib.sha256("\0".join(targets).encode()).hexdigest()[:32]
    folder = make_private(cache_folder("links") / digest)
    for target in targets:
        with contextlib.suppress(FileExistsError):  # of an earlier run: the folder's name says where it leads
            (folder / os.path.basename(target)).symlink_to(target)
    return str(folder)
