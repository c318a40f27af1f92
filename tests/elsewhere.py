"""Backends that other environments import by their source: this module needs nothing but Python."""

from __future__ import annotations

import os
import sys
from typing import Any


def versions(request: Any) -> list[Any]:
    """The version of semver here, whether it is one of the new kind, and where here is."""
    import semver  # type: ignore[import-not-found]

    return [semver.__version__, hasattr(semver, "Version"), sys.executable, sys.prefix]


def interpreter(request: Any) -> list[str]:
    return [sys.executable, sys.prefix, os.environ.get("VIRTUAL_ENV", "")]


def variables(request: Any) -> dict[str, str]:
    return dict(os.environ)


class Asks:
    """Says where it is, and what a backend elsewhere says."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __call__(self, request: Any) -> list[Any]:
        return [sys.prefix, self.handle.remote().result()]
