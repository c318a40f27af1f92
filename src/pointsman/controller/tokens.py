"""Tokens of the console as part of the desired state: made, revoked, ended, found. Pure."""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta

import msgspec

from pointsman.controller.history import noted
from pointsman.controller.state import Desired, without
from pointsman.lock.keys import digest_of
from pointsman.model.tokens import ROLES, Holder, Token
from pointsman.wire.tokens import CreateToken, TokenCommand


def apply(state: Desired, command: TokenCommand, now: str) -> Desired:
    """Carry out a command.

    Args:
        now: time of day, ISO 8601 in UTC.

    Raises:
        ValueError: the name is taken, or there is no such token; nothing has changed.
    """
    name, kept = command.name, living(state, now)
    if isinstance(command, CreateToken):
        if command.role not in ROLES:
            raise ValueError(f"role {command.role!r} is unknown; use one of {', '.join(ROLES)}")
        if name in kept:
            raise ValueError(f"there is a token {name!r} already; revoke it first, or take another name")
        ends = datetime.fromisoformat(now) + timedelta(seconds=command.ttl_s) if command.ttl_s is not None else None
        token = Token(command.digest, command.role, now, command.by, ends.isoformat() if ends is not None else "")
        kept, text = {**kept, name: token}, f"created for {command.role}"
    else:
        if name not in kept:
            raise ValueError(f"there is no token {name!r}; there are {sorted(kept)}")
        kept, text = without(kept, name), "revoked"
    new = msgspec.structs.replace(state, version=state.version + 1, tokens=kept)
    return noted(new, f"token/{name}", text, by=command.by, now=now)


def living(state: Desired, now: str) -> dict[str, Token]:
    """The tokens that have not ended."""
    return {name: token for name, token in state.tokens.items() if not has_ended(token, now)}


def has_ended(token: Token, now: str) -> bool:
    return bool(token.expires) and datetime.fromisoformat(now) >= datetime.fromisoformat(token.expires)


def holder_of(tokens: dict[str, Token], secret: str) -> Holder | None:
    """Whose token it is, among those given; None if it is nobody's."""
    digest, found = digest_of(secret.encode()), None
    for name, token in tokens.items():
        if hmac.compare_digest(token.digest, digest):
            found = Holder(name, token.role, token.expires)
    return found
