"""Operations on tokens: who may use the console, and for what."""

from __future__ import annotations

import secrets
from typing import Any

from pointsman.client.operations import Operations, author, new_id
from pointsman.lock.keys import digest_of
from pointsman.wire.messages import unpack
from pointsman.wire.tokens import CreateToken, QueryTokens, RevokeToken, TokenList


class TokenOperations(Operations):
    """Makes and revokes tokens."""

    def create_token(self, name: str, role: str = "view", *, ttl_s: float | None = None, token: str = "") -> str:
        """Make a token for the console and return it; only its hash is kept.

        Args:
            name: whose it is.
            role: ``"view"``, ``"operate"`` (traffic, configuration of backends) or ``"deploy"`` (code).
            ttl_s: seconds until it ends; None for no end.

        Raises:
            ValueError: the name is taken, or the role is unknown.
        """
        self._check_alive()
        token = token or secrets.token_urlsafe(32)
        self._session.command(CreateToken(new_id(), name, role, digest_of(token.encode()), ttl_s, by=author()))
        return token

    def list_tokens(self) -> dict[str, Any]:
        """The tokens by name: role, when they were made, by whom, and when they end."""
        self._check_alive()
        found = unpack(self._session.command(QueryTokens(new_id())), TokenList).tokens
        return {
            name: {"role": one.role, "made": one.made or None, "by": one.by, "expires": one.expires or None}
            for name, one in found.items()
        }

    def revoke_token(self, name: str) -> None:
        """End a token now.

        Raises:
            ValueError: there is none of that name.
        """
        self._check_alive()
        self._session.command(RevokeToken(new_id(), name, by=author()))
