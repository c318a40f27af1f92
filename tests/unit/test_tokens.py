"""controller.tokens, lock.tokenfile, cli.token: tokens are made, found, ended, and never shown again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from pointsman.controller.history import KEPT_CHANGES, history_of
from pointsman.controller.state import Desired
from pointsman.controller.tokens import apply, holder_of
from pointsman.lock.keys import digest_of
from pointsman.lock.tokenfile import TokenFile, read_tokens
from pointsman.model.tokens import Holder, Token
from pointsman.wire.tokens import CreateToken, RevokeToken
from tests.unit.desiring import SERVED

NOW, LATER = "2026-11-29T10:00:00.000+00:00", "2026-11-29T10:01:00.000+00:00"


def make(state: Desired, name: str, role: str = "view", *, ttl_s: float | None = None, secret: str = "") -> Desired:
    digest = digest_of((secret or f"secret of {name}").replace(" ", "-").encode())
    return apply(state, CreateToken("id", name, role, digest, ttl_s, by="the operator"), NOW)


def whose(state: Desired, secret: str, now: str = NOW) -> Holder | None:
    return holder_of(state.tokens.items(), secret, now)


def test_a_token_opens_for_whom_it_was_made() -> None:
    """Its holder is known by it, and nobody by another one (AD3)."""
    state = make(make(SERVED, "anna", "operate"), "bob")
    assert whose(state, "secret-of-anna") == Holder("anna", "operate")
    assert whose(state, "secret-of-bob") == Holder("bob", "view")
    for wrong in ("", "secret-of-ann", "secret-of-anna ", "secret of anna", "anna", "x" * 5000, "\x00", "ü"):
        assert whose(state, wrong) is None


def test_the_token_itself_is_nowhere() -> None:
    """State and history have its hash at most (AD3)."""
    assert b"secret-of-anna" not in msgspec.msgpack.encode(make(SERVED, "anna"))


def test_a_token_ends() -> None:
    """After its time it is nobody's, and its name is free; it is forgotten with the next change of tokens (AD3)."""
    state = make(SERVED, "anna", ttl_s=60)
    assert whose(state, "secret-of-anna") == Holder("anna", "view", LATER)
    assert whose(state, "secret-of-anna", LATER) is None
    digest = digest_of(b"other")
    again = apply(state, CreateToken("id", "anna", "view", digest), LATER)
    assert again.tokens == {"anna": Token(digest, "view", LATER)}


def test_a_revoked_token() -> None:
    """It is nobody's at once, and what was done is in the history, by whom (AD3, AD7)."""
    state = apply(make(SERVED, "anna"), RevokeToken("id", "anna", by="the operator"), LATER)
    assert whose(state, "secret-of-anna") is None
    assert [(r.object, r.change, r.by) for r in history_of(state)[-2:]] == [
        ("token/anna", "created for view", "the operator"),
        ("token/anna", "revoked", "the operator"),
    ]


def test_tokens_make_no_version() -> None:
    """Who has planned an apply can carry it out although somebody got a token meanwhile (AD3, CF6)."""
    state = SERVED
    for number in range(KEPT_CHANGES + 50):
        state = make(state, f"t{number}")
    assert state.version == SERVED.version
    names = [record.object for record in history_of(state)]
    assert names == [f"token/t{number}" for number in range(50, KEPT_CHANGES + 50)]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (CreateToken("id", "anna", "view", digest_of(b"x")), "there is a token 'anna' already"),
        (
            CreateToken("id", "carl", "root", digest_of(b"x")),
            "role 'root' is unknown; use one of view, operate",
        ),
        (CreateToken("id", "carl", "view", digest_of(b"secret-of-anna")), "'carl' is there under another name"),
        (CreateToken("id", "carl", "view", b"short"), "has 5 bytes, and needs 32"),
        (CreateToken("id", "", "view", digest_of(b"x")), "must be 1-200 printable characters"),
        (CreateToken("id", "a\nb", "view", digest_of(b"x")), "must be 1-200 printable characters"),
        (CreateToken("id", "carl", "view", digest_of(b"x"), -1.0), "ttl_s"),
        (CreateToken("id", "carl", "view", digest_of(b"x"), 1e300), "ttl_s is 1e\\+300, and may be"),
        (CreateToken("id", "carl", "view", digest_of(b"x"), float("nan")), "ttl_s"),
        (RevokeToken("id", "carl"), "there is no token 'carl'; there are 'anna'"),
    ],
)
def test_what_cannot_be(command: CreateToken | RevokeToken, text: str) -> None:
    """A wrong name, role, time or token is refused in one sentence, and nothing has changed (AD3)."""
    with pytest.raises(ValueError, match=text):
        apply(make(SERVED, "anna"), command, NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(0o600)
    return path


def test_a_file_of_tokens(path: Path) -> None:
    """A line is a token; empty lines and comments are none (AD3)."""
    path.write_text("# ours\n\nanna deploy abc-123\n  bob   view\txyz  \n")
    tokens = read_tokens(str(path))
    assert {name: (token.role, token.by) for name, token in tokens.items()} == {
        "anna": ("deploy", "the token file"),
        "bob": ("view", "the token file"),
    }
    assert holder_of(tokens.items(), "abc-123", NOW) == Holder("anna", "deploy")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "there is no token in it"),
        ("# nothing\n", "there is no token in it"),
        ("anna deploy", "line 1 has 2 words, and needs three"),
        ("anna deploy hal lo", "line 1 has 4 words"),
        ("\nanna root s3cr3t", "line 2 is for an unknown role; it has view, operate, deploy"),
        ("anna s3cr3t view", "line 1 is for an unknown role"),
        ("anna view s3cr3tä", "the token in line 1 must be 1-4096 printable ASCII characters"),
        ("anna view s3cr3t\nanna view y", "line 2 has the name 'anna', which another line has"),
        ("anna view s3cr3t\nbob view s3cr3t", "line 2 has the token of 'anna'"),
    ],
)
def test_a_wrong_file_of_tokens(path: Path, content: str, text: str) -> None:
    """It is refused with file and line, and no token is in the text (AD3)."""
    path.write_text(content)
    with pytest.raises(ValueError, match=text) as raised:
        read_tokens(str(path))
    assert str(path) in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


def test_a_file_of_tokens_that_others_may_read(path: Path) -> None:
    """It is refused, and so is one that is not there (AD3)."""
    path.write_text("anna view abc")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ValueError, match=f"others may read or write it \\(mode 0{mode:o}\\); make that 0600"):
            read_tokens(str(path))
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_tokens(str(path) + "x")


def test_a_file_of_tokens_that_changes(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It counts once it was looked at again; a wrong one changes nothing, and one that is wrong from the start gives no
    tokens until it is right (AD3)."""

    def names(file: TokenFile) -> set[str]:
        for watched in file.watched:
            asyncio.run(watched.look())
        return set(file.tokens)

    path.write_text("anna")
    file = TokenFile(str(path))
    assert names(file) == set()
    path.write_text("anna view abc")
    assert names(file) == {"anna"}
    path.write_text("bob view xyz\ncarl deploy s3cr3t")
    assert names(file) == {"bob", "carl"}
    path.write_text("")
    assert names(file) == {"bob", "carl"}
    path.write_text("bob view xyz")
    assert names(file) == {"bob"}
    assert names(TokenFile("")) == set()
    assert "s3cr3t" not in caplog.text
    assert caplog.text.count("there is no token in it") == 1
