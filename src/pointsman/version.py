"""The version, and the form in which it is imported: sources, or compiled modules beside them (decision 0057)."""

from __future__ import annotations

import os
import sys

VERSION = "0.1.0"


def import_sources(folder: str) -> None:
    """From now on import nothing but sources from this folder, and from those in it."""
    from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader

    for path, _, _ in os.walk(folder):
        sys.path_importer_cache[path] = FileFinder(path, (SourceFileLoader, SOURCE_SUFFIXES))
