"""lock.hosts: names of this server, and the word of proxies."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman.config import HTTPOptions
from pointsman.lock.hosts import Hosts, Proxies, check_hosts, check_proxies, scheme_of
from tests.unit.sentences import sentence


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("a.example", True),
        ("A.Example:8000", True),
        ("a.example.", True),
        ("a.example:", True),
        ("a.example:80x", False),
        ("a.example..", False),
        ("b.example", False),
        ("x.sub.example", True),
        ("y.x.sub.example:1", True),
        ("sub.example", False),
        ("xsub.example", False),
        ("a.example.evil", False),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("[::2]:8000", False),
        ("[::1", False),
        ("::1", False),
        ("a.example@evil", False),
        ("evil.example/.sub.example", False),
        ("evil.example#.sub.example", False),
        ("evil.example@x.sub.example", False),
        (".sub.example", False),
        ("", False),
        (None, False),
    ],
)
def test_hosts(host: str | None, allowed: bool) -> None:
    """A request is let in by the names that the operator has given, whatever the port; without Host by none (ED6)."""
    hosts = Hosts(check_hosts(["a.example", "*.sub.example", "::1"]))
    assert hosts.allows(None if host is None else host.encode()) is allowed


@pytest.mark.parametrize(
    "given", [[], "a.example", [5], ["http://a.example"], ["a.example:80"], ["a b"], ["a.*"], [""]]
)
def test_bad_hosts(given: Any) -> None:
    """What is no name of a host is refused (ED6)."""
    with pytest.raises(ValueError) as caught:
        HTTPOptions(allowed_hosts=given)
    sentence(caught.value, "allowed_hosts")


@pytest.mark.parametrize("given", ["10.0.0.1", [5], ["proxy.example"], ["10.0.0.1/8"], ["10.0.0.0/33"], [""]])
def test_bad_proxies(given: Any) -> None:
    """What is no address is refused: a name may become somebody else's (ED6)."""
    with pytest.raises(ValueError) as caught:
        HTTPOptions(trusted_proxies=given)
    sentence(caught.value, "trusted_proxies")


PEER = ("10.0.0.1", 5555)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        (PEER, [], PEER),
        (PEER, ["1.2.3.4"], ("1.2.3.4", 0)),
        (PEER, ["6.6.6.6, 1.2.3.4"], ("1.2.3.4", 0)),
        (PEER, ["6.6.6.6", "1.2.3.4"], ("1.2.3.4", 0)),
        (PEER, ["1.2.3.4, 10.0.0.7"], ("1.2.3.4", 0)),
        (PEER, ["10.0.0.8,10.0.0.7"], ("10.0.0.8", 0)),
        (PEER, ["1.2.3.4:99"], ("1.2.3.4", 0)),
        (PEER, ["[2001:db8::7]:99"], ("2001:db8::7", 0)),
        (PEER, ["2001:db8::7"], ("2001:db8::7", 0)),
        (PEER, ["unknown"], PEER),
        (PEER, ["1.2.3.4, unknown, 10.0.0.7"], ("10.0.0.7", 0)),
        (PEER, [""], PEER),
        (("::ffff:10.0.0.1", 1), ["1.2.3.4"], ("1.2.3.4", 0)),
        (("9.9.9.9", 1), ["1.2.3.4"], ("9.9.9.9", 1)),
    ],
)
def test_the_client_behind_proxies(peer: tuple[str, int], forwarded: list[str], client: tuple[str, int]) -> None:
    """The client is the last address that no trusted proxy has: what it says of itself does not count (ED6)."""
    proxies = Proxies(check_proxies(["10.0.0.0/8", "::1"]))
    assert proxies.client(peer, [value.encode() for value in forwarded]) == client


def test_everybody_is_a_proxy() -> None:
    """With ``*`` the first address counts (ED6)."""
    assert Proxies(["*"]).client(PEER, [b"6.6.6.6, 1.2.3.4"]) == ("6.6.6.6", 0)
    assert Proxies(["*"]).client(None, [b"6.6.6.6"]) == ("6.6.6.6", 0)


@pytest.mark.parametrize(
    ("said", "scheme"), [("https", "https"), ("HTTP, https", "https"), ("wss", "https"), ("gopher", None), ("", None)]
)
def test_the_scheme_behind_proxies(said: str, scheme: str | None) -> None:
    """The scheme is what the last proxy saw (ED6)."""
    assert scheme_of(said.encode()) == scheme
