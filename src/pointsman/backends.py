"""Backends that are given by an import path instead of the code itself."""

from __future__ import annotations

from typing import Any

from pointsman.model import TargetTraits
from pointsman.usercode.mounting import asgi
from pointsman.usercode.packing import import_object


class ImportedBackend:
    """A function or class that is imported only where replicas run, in their environment; the driver needs no source.

    Args:
        path: ``"package.module.Name"`` or ``"package.module:Name"``.

    Raises:
        TypeError, ValueError: it is no such path.
    """

    def __init__(self, path: str) -> None:
        if not isinstance(path, str):
            raise TypeError(f"ImportedBackend takes an import path, a str, not {path!r}")
        module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
        if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
            raise ValueError(f"{path!r} is not an import path such as 'package.module.Name' or 'package.module:Name'")
        self.path = path

    def __repr__(self) -> str:
        return f"ImportedBackend({self.path!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImportedBackend) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickling imports the named object, so that a replica loads it like any other code."""
        return import_object, (self.path,)


class TriedBackend(ImportedBackend):
    """Code at an import path that another process has imported on trial, in this environment.

    Attributes:
        traits: what was found out about it.
        content: digest of the user's modules that its import loads.
        folder: of its file.
        app: whether it is a bare ASGI app.
    """

    def __init__(self, path: str, traits: TargetTraits, *, content: str, folder: str, app: bool = False) -> None:
        super().__init__(path)
        self.traits = traits
        self.content = content
        self.folder = folder
        self.app = app

    def __reduce__(self) -> tuple[Any, ...]:
        return (asgi, (self.path,)) if self.app else super().__reduce__()
