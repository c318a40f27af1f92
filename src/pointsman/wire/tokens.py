"""Commands about tokens, and the answers. Schemas; no I/O."""

from __future__ import annotations

import msgspec

from pointsman.model.tokens import Token
from pointsman.wire.messages import Command, Signed


class CreateToken(Signed, frozen=True, tag="create_token"):
    """Make a token known, by its digest alone.

    Attributes:
        ttl_s: seconds until it ends; None for no end.
    """

    name: str
    role: str
    digest: bytes
    ttl_s: float | None = None


class RevokeToken(Signed, frozen=True, tag="revoke_token"):
    name: str


TokenCommand = CreateToken | RevokeToken


class QueryTokens(Command, frozen=True, tag="query_tokens"):
    """Read all tokens; the reply is a :class:`TokenList`."""


class QueryHolder(Command, frozen=True, tag="query_holder"):
    """Ask whose a token is; the reply is a :class:`~pointsman.model.tokens.Holder`. The token itself is in the head of
    the command, where it is with all commands of a console."""


class QueryConsoleKey(Command, frozen=True, tag="query_console_key"):
    """Ask for the key with which a console connects; the reply is a :class:`ConsoleKey`."""


class ConsoleKey(msgspec.Struct, frozen=True):
    """The reply to a QueryConsoleKey. The key reads, and changes what the token of a user allows."""

    key: bytes


class TokenList(msgspec.Struct, frozen=True):
    """The reply to a QueryTokens: tokens by name; those of the token file have no time."""

    tokens: dict[str, Token]
