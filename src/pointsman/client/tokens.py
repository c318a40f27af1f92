"""Operations on tokens: who may use the console, and for what."""

from __future__ import annotations

import secrets
from typing import Any

from pointsman.arguments import check_object_name, check_timeout
from pointsman.client.operations import Operations, author, new_id
from pointsman.lock.keys import MAX_KEY, digest_of, is_key
from pointsman.model.tokens import VIEW
from pointsman.wire.messages import unpack
from pointsman.wire.tokens import CreateToken, QueryTokens, RevokeToken, TokenList


class TokenOperations(Operations):
    """Makes and revokes tokens. Code in replicas may not, whatever else it may do."""

    def create_token(self, name: str, role: str = VIEW, *, ttl_s: float | None = None, token: str | None = None) -> str:
        """Make a token for the console and return it. Only its hash is kept, so it cannot be shown again.

        Args:
            name: whose it is: 1-200 printable characters. The history of changes says it.
            role: ``"view"``, ``"operate"`` (also traffic, and configuration of backends) or ``"deploy"`` (also code).
            ttl_s: seconds until it ends; None for no end.
            token: one of your own, long and random; None makes one.

        Returns:
            The token, which is shown only this once.

        Raises:
            TypeError: an argument is of another type.
            ValueError: the name is taken, the role unknown, or there are 1,000 tokens. Nothing has changed.
            ForbiddenError: this is code in a replica.
        """
        self._check_alive()
        check_object_name(name, "name")
        if not isinstance(role, str):
            raise TypeError(f"role must be a str, not {role!r}")
        made = secrets.token_urlsafe(32) if token is None else token
        if not isinstance(made, str) or not is_key(made):
            raise ValueError(f"token {name!r} must be 1-{MAX_KEY} printable ASCII characters without blanks")
        seconds = check_timeout(ttl_s, "ttl_s")
        self._session.command(CreateToken(new_id(), name, role, digest_of(made.encode()), seconds, by=author()))
        return made

    def list_tokens(self) -> dict[str, dict[str, Any]]:
        """The tokens that have not ended.

        Returns:
            By name ``{"role", "made", "by", "expires"}``: ``made`` and ``expires`` are ISO 8601 in UTC, ``by`` is who
            has made it. ``made`` is None where it is in the token file, ``expires`` where it has no end.
        """
        self._check_alive()
        found = unpack(self._session.command(QueryTokens(new_id())), TokenList).tokens
        return {
            name: {"role": one.role, "made": one.made or None, "by": one.by, "expires": one.expires or None}
            for name, one in sorted(found.items())
        }

    def revoke_token(self, name: str) -> None:
        """End a token now: the next request with it is refused.

        Args:
            name: whose token it is.

        Raises:
            ValueError: there is none of that name, or it is in the token file.
            ForbiddenError: this is code in a replica.
        """
        self._check_alive()
        self._session.command(RevokeToken(new_id(), check_object_name(name, "name"), by=author()))
