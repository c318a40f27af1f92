"""Tokens of the console in a file that only its owner can read, a line ``NAME ROLE TOKEN`` each.

Lines that are empty or begin with ``#`` say nothing. No error's text has anything of a token: it ends up in logs.
"""

from __future__ import annotations

import logging
from typing import Any

from pointsman.arguments import check_object_name, nearest
from pointsman.lock.keyfile import read_private, signature_of
from pointsman.lock.keys import MAX_KEY, digest_of, is_key
from pointsman.lock.watching import Watched
from pointsman.model.tokens import ROLES, Token

log = logging.getLogger(__name__)

SOURCE = "the token file"
"""Who has made the tokens of the file, as lists of tokens say."""


def read_tokens(path: str) -> dict[str, Token]:
    """The tokens in a file, by name.

    Raises:
        ValueError: it cannot be read, others may read it, there is no token in it, or a line is none. The text names
            the file and the line, and no token.
    """
    try:
        lines = read_private(path).decode().splitlines()
        return _tokens_in(lines)
    except UnicodeDecodeError:
        raise ValueError(f"token file {path!r} is not UTF-8") from None
    except OSError as error:
        raise ValueError(f"token file {path!r} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"token file {path!r}: {error}") from None


class TokenFile:
    """The tokens of a file, read again when it has changed; a wrong one changes nothing.

    Args:
        path: of the file; empty for none, and no tokens.

    Attributes:
        tokens: by name.
        watched: what :func:`~pointsman.lock.watching.watch` looks at.
    """

    def __init__(self, path: str) -> None:
        self.tokens: dict[str, Token] = {}
        self.watched: list[Watched] = []
        if not path:
            return
        signature = signature_of(path)
        try:
            self.tokens = read_tokens(path)
        except ValueError as error:
            log.error("no token of the file is good for anything until it is right: %s", error)
        self.watched = [Watched("tokens", lambda: signature_of(path), lambda: read_tokens(path), self._use, signature)]

    def _use(self, tokens: Any) -> None:
        self.tokens = tokens


def _tokens_in(lines: list[str]) -> dict[str, Token]:
    tokens: dict[str, Token] = {}
    names: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"line {number}"
        if len(words) != 3:
            raise ValueError(f"{where} has {len(words)} words, and needs three: NAME ROLE TOKEN")
        name, role, secret = words
        check_object_name(name, f"the name in {where}")
        if role not in ROLES:
            # What stands there is not shown, since it may be a token.
            raise ValueError(f"{where} is for an unknown role{nearest(role, ROLES)}")
        if not is_key(secret):
            raise ValueError(f"the token in {where} must be 1-{MAX_KEY} printable ASCII characters")
        digest = digest_of(secret.encode())
        if name in tokens:
            raise ValueError(f"{where} has the name {name!r}, which another line has")
        if digest in names:
            raise ValueError(f"{where} has the token of {names[digest]!r}; make one for each")
        tokens[name], names[digest] = Token(digest, role, by=SOURCE), name
    if not tokens:
        raise ValueError("there is no token in it; leave it out to have none")
    return tokens
