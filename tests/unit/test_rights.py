"""controller.rights: who may send which command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.controller.rights import Rights, Sender
from pointsman.controller.state import Desired
from pointsman.exceptions import ForbiddenError, TokenError
from pointsman.lock.keys import digest_of
from pointsman.model.tokens import ROLES, Token
from pointsman.wire.auth import ROLE_CONSOLE, ROLE_GRANT, ROLE_OPERATOR
from pointsman.wire.commands import AnyCommand
from pointsman.wire.messages import Signed, Warrant
from pointsman.wire.tokens import CreateToken, QueryConsoleKey, QueryTokens, RevokeToken
from tests.properties import examples
from tests.unit.test_messages import values_of

TOKENS = {role: Token(digest_of(f"{role}-token".encode()), role) for role in ROLES}
ENDED = Token(digest_of(b"ended-token"), "deploy", expires="2000-01-01T00:00:00+00:00")
STATE = Desired(version=3, tokens={**TOKENS, "ended": ENDED})
RIGHTS = Rights(lambda: STATE, lambda: {"filed": Token(digest_of(b"filed-token"), "operate")})

READ = {
    *("await", "await_operation", "await_rollout", "query", "query_backends", "query_declared", "query_examples"),
    *("query_history", "query_holder", "query_metrics", "query_models", "query_rollout", "query_shadow"),
    *("query_tallies", "query_traffic", "query_moves", "query_failures"),
}
OPERATE = {
    *("set_traffic", "shadow_traffic", "rollback_traffic", "pin", "unpin", "update_backend_config"),
    *("start_rollout", "control_rollout", "scale_backend", "wake_backend", "unload_backend"),
}
DEPLOY = {"apply", "take_back"}
NEVER = {
    *("create_backend", "replace_backend", "delete_backend", "create_endpoint", "delete_endpoint", "deploy"),
    *("await_ingress", "come_up", "shutdown", "create_token", "revoke_token", "query_tokens"),
    "query_console_key",
}
ALLOWED = {"": READ, "view": READ, "operate": READ | OPERATE, "deploy": READ | OPERATE | DEPLOY}


def kinds() -> Iterator[type[Any]]:
    """The class of each command that there is."""
    waiting = [AnyCommand]
    while waiting:
        kind: Any = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            yield kind
        else:
            waiting.extend(get_args(kind))


KINDS = {str(kind.__struct_config__.tag): kind for kind in kinds()}
COMMANDS = st.sampled_from(sorted(KINDS)).flatmap(lambda tag: values_of(KINDS[tag]))


def test_every_command_is_thought_of() -> None:
    """One that is new is nobody's until somebody has decided whose it is (AD3)."""
    assert set(KINDS) == READ | OPERATE | DEPLOY | NEVER


@examples(300)
@given(command=COMMANDS, role=st.sampled_from(["", *ROLES]), seen=st.none() | st.integers(0, 9))
def test_what_each_role_may_do(command: Any, role: str, seen: int | None) -> None:
    """The console's key alone changes nothing, whatever is sent with it; a token allows what its role says and no more,
    and what it allows is signed with its name, whatever name came with it (AD3, S3)."""
    tag = command.__struct_config__.tag
    sender = Sender(ROLE_CONSOLE, Warrant(f"{role}-token" if role else "", seen))
    if tag in ALLOWED[role]:
        admitted = RIGHTS.admit(sender, command)
        if isinstance(command, Signed):
            command = msgspec.structs.replace(command, by=f"token {role}")
        assert admitted == command
    else:
        with pytest.raises((ForbiddenError, TokenError)):
            RIGHTS.admit(sender, command)


WRONG = [
    *(Sender(ROLE_CONSOLE, Warrant(token)) for token in ("", "wrong", "ended-token", "deploy", "x" * 10_000, "a b")),
    Sender(ROLE_CONSOLE),
    Sender(ROLE_OPERATOR, Warrant()),
    Sender(ROLE_GRANT, Warrant("wrong")),
]


@examples(100)
@given(command=COMMANDS, sender=st.sampled_from(WRONG))
def test_no_token_or_a_wrong_one(command: Any, sender: Sender) -> None:
    """It changes nothing; also where the operator's own key serves the page (AD3)."""
    if command.__struct_config__.tag not in READ:
        with pytest.raises((ForbiddenError, TokenError)):
            RIGHTS.admit(sender, command)
    with pytest.raises(TokenError, match="the token is unknown, was revoked, or has ended"):
        RIGHTS.holder(sender)


def test_tokens_are_the_operators() -> None:
    """Code in a replica, which may change all else, neither makes nor revokes nor lists tokens, nor has a console's
    key (AD3)."""
    digest = digest_of(b"mine")
    for command in (
        CreateToken("id", "mine", "deploy", digest),
        RevokeToken("id", "view"),
        QueryTokens("id"),
        QueryConsoleKey("id"),
    ):
        assert RIGHTS.admit(Sender(ROLE_OPERATOR), command) == command
        for sender in (Sender(ROLE_GRANT), Sender(ROLE_CONSOLE, Warrant("deploy-token"))):
            with pytest.raises(ForbiddenError):
                RIGHTS.admit(sender, command)


def test_tokens_of_the_file() -> None:
    """They are good as others are, listed with them, and changed in the file alone (AD3)."""
    assert RIGHTS.holder(Sender(ROLE_CONSOLE, Warrant("filed-token"))).role == "operate"
    assert set(RIGHTS.tokens()) == {"filed", *ROLES}
    for command in (CreateToken("id", "filed", "view", digest_of(b"x")), RevokeToken("id", "filed")):
        with pytest.raises(ValueError, match="token 'filed' is in the token file"):
            RIGHTS.admit(Sender(ROLE_OPERATOR), command)


def test_a_name_is_one_token() -> None:
    """The file names a token as one that was made: the file's is in force and in the list, and the other is good for
    nothing, so that no list hides what somebody may do (AD3)."""
    filed = {"view": Token(digest_of(b"filed-token"), "deploy")}
    rights = Rights(lambda: STATE, lambda: filed)
    assert rights.tokens()["view"] is filed["view"]
    assert rights.holder(Sender(ROLE_CONSOLE, Warrant("filed-token"))).role == "deploy"
    with pytest.raises(TokenError):
        rights.holder(Sender(ROLE_CONSOLE, Warrant("view-token")))


def test_whoever_guesses_tokens_does_not_fill_the_log(caplog: Any) -> None:
    """Wrong tokens are told of once a second, and none of them is in the log (AD3)."""
    rights = Rights(lambda: STATE)
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            with pytest.raises(TokenError):
                rights.holder(Sender(ROLE_CONSOLE, Warrant(f"guess{number}")))
    assert 1 <= len(caplog.records) <= 10
    assert "guess" not in caplog.text
