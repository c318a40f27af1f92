"""Where code comes from and where it runs. Part of ``model``; imports no other module of Pointsman."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

#: The kind of the default environment: that of the process that sent the code.
CALLER = "caller"


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """Base of the types: immutable, compared by value, and tolerant of unknown fields from a newer peer."""


class Environment(Struct, frozen=True):
    """A Python environment, with all that is needed to start a process in it.

    Attributes:
        kind: :data:`CALLER`, ``virtualenv``, ``conda`` or ``requirements``.
        name: its name or path, as the user gave it.
        python: absolute path of its interpreter.
        version: its version of Python, such as ``3.12.1``.
        variables: environment variables that are set in its processes.
        unset: names of variables that its processes do not inherit.
        path: folders that come first in the ``PATH`` of its processes.
    """

    kind: str
    name: str
    python: str
    version: str
    variables: dict[str, str] = {}
    unset: tuple[str, ...] = ()
    path: tuple[str, ...] = ()

    def over(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """All environment variables of a process in this environment whose parent has ``inherited``."""
        kept = {name: value for name, value in inherited.items() if name not in self.unset}
        variables = {**kept, **self.variables}
        folders = [*self.path, *([variables["PATH"]] if variables.get("PATH") else [])]
        return {**variables, "PATH": ":".join(folders)} if folders else variables

    def __str__(self) -> str:
        return f"{self.kind} environment {self.name!r}"


class Origin(Struct, frozen=True):
    """Where code runs: working folder, first entries of the import path, environment (None: the instance's own)."""

    cwd: str
    sys_path: tuple[str, ...]
    environment: Environment | None = None


class Move(Struct, frozen=True):
    """Which backends run in another environment once another release has taken their instance over.

    Attributes:
        prefix: of the environment of the old release.
        environment: that of the new one.
        left: folders in which the old one was found, which are not on the import path any more.
    """

    prefix: str
    environment: Environment
    left: tuple[str, ...] = ()


class Source(Struct, frozen=True):
    """Where the code of a backend comes from.

    Attributes:
        path: import path ``module:Name`` of the function or class; empty if it was sent by value.
        name: its qualified name.
        args: its init arguments as JSON; None if they cannot be written as JSON.
        env: its environment as JSON, as ``env`` of a configuration file has it; ``null`` for that of the sender.
        content: digest of the local modules that importing it loads; empty where that is not known.
        version: a word of the user's for what files do not show.
        commit: git commit of the folder that holds the code, with ``+`` behind it if there were changes; empty if the
            folder is in no repository.
    """

    path: str = ""
    name: str = ""
    args: bytes | None = None
    env: bytes = b"null"
    content: str = ""
    version: str = ""
    commit: str = ""
