"""Where a backend's code comes from, in words for people and for configuration files. Pure; imports nothing of ours."""

from __future__ import annotations

import msgspec


class Source(msgspec.Struct, frozen=True):
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
