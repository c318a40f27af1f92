"""Tokens of the console as part of the desired state: made, revoked, ended, found. Pure.

They make no new version of the state: nothing that is served depends on them, and whoever has made a plan for a version
can carry it out although somebody was given a token meanwhile.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from pointsman.arguments import check_object_name, check_timeout
from pointsman.controller.history import noted
from pointsman.controller.state import Desired, without
from pointsman.lock.keys import digest_of, is_key
from pointsman.model.tokens import ROLES, Holder, Token
from pointsman.wire.tokens import CreateToken, TokenCommand

MAX_TOKENS = 1000
MAX_TTL_S = 100 * 366 * 86400.0
DIGEST_SIZE = 32


def apply(state: Desired, command: TokenCommand, now: str) -> Desired:
    """Carry out a command. What has ended is forgotten with it.

    Args:
        now: time of day, ISO 8601 in UTC.

    Raises:
        ValueError: the name is taken or wrong, there is no such token, or there are too many; nothing has changed.
    """
    name, kept = command.name, living(state, now)
    if isinstance(command, CreateToken):
        kept, text = {**kept, name: _made(command, kept, now)}, f"created for {command.role}"
    elif name in kept:
        kept, text = without(kept, name), "revoked"
    else:
        others = f"there are {', '.join(map(repr, sorted(kept)))}" if kept else "there are none"
        raise ValueError(f"there is no token {name!r}; {others}")
    return noted(msgspec.structs.replace(state, tokens=kept), f"token/{name}", text, by=command.by, now=now)


def _made(command: CreateToken, kept: dict[str, Token], now: str) -> Token:
    name, ends = check_object_name(command.name, "the name of a token"), ""
    if command.role not in ROLES:
        raise ValueError(f"role {command.role!r} is unknown; use one of {', '.join(ROLES)}")
    if len(command.digest) != DIGEST_SIZE:
        raise ValueError(f"the digest of token {name!r} has {len(command.digest)} bytes, and needs {DIGEST_SIZE}")
    if name in kept:
        raise ValueError(f"there is a token {name!r} already; revoke it first, or take another name")
    if len(kept) >= MAX_TOKENS:
        raise ValueError(f"there are {len(kept)} tokens, and no more may be; revoke some")
    if any(hmac.compare_digest(token.digest, command.digest) for token in kept.values()):
        raise ValueError(f"the token that was given for {name!r} is there under another name; take another one")
    ttl_s = check_timeout(command.ttl_s, "ttl_s")
    if ttl_s is not None:
        if ttl_s > MAX_TTL_S:
            raise ValueError(f"ttl_s is {ttl_s:g}, and may be {MAX_TTL_S:g} at most; leave it out for no end")
        ends = (datetime.fromisoformat(now) + timedelta(seconds=ttl_s)).isoformat(timespec="milliseconds")
    return Token(command.digest, command.role, now, command.by, ends)


def living(state: Desired, now: str) -> dict[str, Token]:
    """The tokens that have not ended."""
    return {name: token for name, token in state.tokens.items() if not has_ended(token, now)}


def has_ended(token: Token, now: str) -> bool:
    return bool(token.expires) and datetime.fromisoformat(now) >= datetime.fromisoformat(token.expires)


def holder_of(tokens: Iterable[tuple[str, Token]], secret: str, now: str) -> Holder | None:
    """Whose token it is, among those given; None if it is nobody's, or has ended. All are looked at, whichever fits."""
    digest, found = digest_of(secret.encode()) if is_key(secret) else b"", None
    for name, token in tokens:
        if hmac.compare_digest(token.digest, digest):
            found = name, token
    if found is None or has_ended(found[1], now):
        return None
    return Holder(found[0], found[1].role, found[1].expires)
