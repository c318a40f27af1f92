"""Tokens of the console, from a controller that has a store and links: who sends what, and what lasts."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from pointsman.controller.commands import Commands
from pointsman.controller.rights import Sender
from pointsman.exceptions import ForbiddenError, StateChangedError, TokenError
from pointsman.lock.keys import digest_of
from pointsman.model.tokens import Holder
from pointsman.wire.auth import ROLE_CONSOLE, ROLE_GRANT
from pointsman.wire.commands import (
    Accepted,
    CreateEndpoint,
    History,
    Query,
    QueryBackends,
    QueryDeclared,
    QueryHistory,
    QueryTraffic,
    SetTraffic,
)
from pointsman.wire.messages import Warrant, pack, unpack
from pointsman.wire.tokens import CreateToken, QueryHolder, QueryTokens, RevokeToken
from tests.loop.linked import LinkedWorld, in_linked_world
from tests.loop.world import World, in_world
from tests.unit.desiring import create


async def served(world: LinkedWorld) -> int:
    """An endpoint with two backends; returns the version of its traffic policy."""
    for tag in ("b", "c"):
        await world.carry_out(structs.replace(create(tag), id=world.new_id()), b"code", backend=tag)
    await world.change(CreateEndpoint(world.new_id(), "e", "b", None, ("GET",), False))
    return world.controller.desired.endpoints["e"].policy.version


def test_a_change_by_a_token() -> None:
    """With the console's key and a token an endpoint's traffic changes, by the name of the token; the same with a token
    that was revoked, with none, or from an old page does not (AD3, AD7)."""

    async def test(world: LinkedWorld) -> None:
        seen = await served(world)
        await world.driver.command(CreateToken(world.new_id(), "anna", "operate", digest_of(b"secret")))
        console = world.link(ROLE_CONSOLE)
        await console.start()
        who = await console.command(QueryHolder("q"), warrant=Warrant("secret"))
        assert unpack(who, Holder) == Holder("anna", "operate")

        def split(**weights: float) -> SetTraffic:
            return SetTraffic(world.new_id(), "e", weights, by="root")

        reply = await console.command(split(b=0.5, c=0.5), warrant=Warrant("secret", seen))
        assert unpack(reply, Accepted).version == world.controller.desired.endpoints["e"].policy.version
        state = pack(world.controller.desired)
        for warrant, error in (
            (Warrant("secret", seen), StateChangedError),
            (Warrant("guess"), TokenError),
            (Warrant(), TokenError),
            (None, TokenError),
        ):
            with pytest.raises(error):
                await console.command(split(c=1.0), warrant=warrant)
        assert pack(world.controller.desired) == state
        newest = unpack(await console.command(QueryHistory("h")), History).changes[-1]
        assert (newest.object, newest.by) == ("endpoint/e", "token anna")
        await world.driver.command(RevokeToken(world.new_id(), "anna"))
        with pytest.raises(TokenError):
            await console.command(split(c=1.0), warrant=Warrant("secret"))
        await console.aclose()

    in_linked_world(test)


def test_what_can_be_read_has_no_token() -> None:
    """Neither status nor export nor history have anything of a token, not even its hash (AD3)."""

    async def test(world: LinkedWorld) -> None:
        await served(world)
        digest = digest_of(b"secret")
        await world.driver.command(CreateToken(world.new_id(), "anna", "operate", digest))
        console = world.link(ROLE_CONSOLE)
        await console.start()
        for query in (Query("q"), QueryDeclared("q"), QueryBackends("q"), QueryTraffic("q", "e"), QueryHistory("q")):
            assert digest not in bytes(await console.command(query))
        with pytest.raises(ForbiddenError, match="query_tokens is not for the console"):
            await console.command(QueryTokens("q"))
        await console.aclose()

    in_linked_world(test)


def test_user_code_makes_no_token() -> None:
    """Code in a replica may change traffic and not give anyone a token (AD3)."""

    async def test(world: LinkedWorld) -> None:
        grant = world.link(ROLE_GRANT)
        await grant.start()
        with pytest.raises(ForbiddenError, match="only the operator makes and revokes tokens"):
            await grant.command(CreateToken(world.new_id(), "mine", "deploy", digest_of(b"mine")))
        assert world.controller.desired.tokens == {}
        await grant.aclose()

    in_linked_world(test)


def test_tokens_outlive_the_controller(tmp_path: Path) -> None:
    """The next controller, also after a restart of all with the same state, knows who may do what (AD3, G4)."""

    async def test(world: World) -> None:
        await world.change(CreateToken(world.new_id(), "anna", "operate", digest_of(b"secret")))
        await world.change(CreateToken(world.new_id(), "bob", "view", digest_of(b"other")))
        await world.change(RevokeToken(world.new_id(), "bob"))
        await world.stop()
        await world.start()
        commands = Commands(world.handover.settings, world.controller, world.engine, ingresses=list)

        async def ask(token: str) -> bytes:
            sender = Sender(ROLE_CONSOLE, Warrant(token))
            return await commands.execute(QueryHolder("q"), b"", lambda state: None, own_router=None, sender=sender)

        assert unpack(await ask("secret"), Holder) == Holder("anna", "operate")
        with pytest.raises(TokenError):
            await ask("other")
        assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    in_world(tmp_path, test)
