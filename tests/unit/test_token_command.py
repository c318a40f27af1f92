"""``pointsman token``: what is printed, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pointsman.cli import token as commands
from pointsman.cli.main import app


class Client:
    """A client of an instance in which a token can be made and ended."""

    def __init__(self) -> None:
        self.tokens: dict[str, dict[str, Any]] = {}

    def create_token(self, name: str, role: str, *, ttl_s: float | None) -> str:
        ends = None if ttl_s is None else "2026-11-29T10:01:00.000+00:00"
        self.tokens[name] = {"role": role, "made": "2026-11-29T10:00:00.000+00:00", "by": "root", "expires": ends}
        return "s3cr3t"

    def list_tokens(self) -> dict[str, dict[str, Any]]:
        return self.tokens

    def revoke_token(self, name: str) -> None:
        del self.tokens[name]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    there = Client()
    monkeypatch.setattr(commands, "connect_to", lambda name, address: there)
    return there


def say(*words: str) -> Result:
    return CliRunner().invoke(app, ["token", *words], env={"COLUMNS": "200"})


def test_a_token_is_shown_once(client: Client) -> None:
    """Standard output has the token and nothing else, so that a script can take it; later there is no way to see it
    (AD3)."""
    made = say("create", "anna", "--role", "operate", "--ttl", "60")
    assert (made.stdout, made.exit_code) == ("s3cr3t\n", 0)
    assert "This is shown once" in made.stderr
    assert "pointsman token revoke anna" in made.stderr
    for listed in (say("list"), say("list", "--json")):
        assert "s3cr3t" not in listed.output
        assert "anna" in listed.stdout


def test_tokens_as_json(client: Client) -> None:
    """For scripts: the token when it is made, and all about the tokens that there are (AD3)."""
    made = json.loads(say("create", "anna", "--role", "view", "--json").stdout)
    assert made == {"name": "anna", "role": "view", "expires": None, "token": "s3cr3t"}
    assert json.loads(say("list", "--json").stdout) == [{"name": "anna", **client.tokens["anna"]}]
    assert json.loads(say("revoke", "anna", "--json").stdout) == {"name": "anna", "revoked": True}
    assert json.loads(say("list", "--json").stdout) == []
    assert "There is no token" in say("list").stdout


@pytest.mark.parametrize(
    "words",
    [
        ["create", "anna"],
        ["create", "anna", "--role", "root"],
        ["create", "--role", "view"],
        *(["create", "anna", "--role", "view", "--ttl", ttl] for ttl in ("0", "-1", "nan", "inf", "soon")),
        ["revoke"],
    ],
)
def test_wrong_words(client: Client, words: list[str]) -> None:
    """They are bad usage, and nothing is made (AD3)."""
    assert say(*words).exit_code == 2
    assert client.tokens == {}
