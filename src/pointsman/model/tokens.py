"""Tokens: who may use an instance's console, and for what. Plain values.

Roles include each other: view < operate (traffic, configuration of backends) < deploy (code).
"""

from __future__ import annotations

import msgspec

from pointsman.model.origin import Struct

VIEW = "view"
OPERATE = "operate"
DEPLOY = "deploy"
ROLES = (VIEW, OPERATE, DEPLOY)
"""Each may do what those before it may."""


class Token(Struct, frozen=True):
    """A token, as it is kept; its name is the key under which it is.

    Attributes:
        digest: SHA-256 of the token.
        role: one of :data:`ROLES`.
        made: when it was made, ISO 8601 in UTC.
        by: who made it.
        expires: when it ends, ISO 8601 in UTC; empty if it does not.
    """

    digest: bytes
    role: str
    made: str = ""
    by: str = ""
    expires: str = ""


class Holder(msgspec.Struct, frozen=True):
    """Who holds a token, and what it is good for."""

    name: str
    role: str
    expires: str = ""


def includes(role: str, needed: str) -> bool:
    """Whether somebody with a role may do what needs another one."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)
