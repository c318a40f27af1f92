"""A console without an instance, asked over ASGI: the client that acts for its users is a stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from pointsman.calling.session import Credentials
from pointsman.console import app
from pointsman.console.app import Console
from pointsman.exceptions import TokenError
from pointsman.model.tokens import ROLES, Holder
from pointsman.wire.auth import ROLE_CONSOLE

CREDENTIALS = Credentials("instance", "/nowhere", ROLE_CONSOLE, "", b"", 60.0)
TRAFFIC = {"version": 7, "weights": {"v1": 1.0}, "shadows": {}, "policy": "weighted", "pins": {}}
STATUS = {
    "endpoints": {"shop": {}, "a/b ?#%.": {}},
    "backends": {"v1": {"state": "RUNNING"}},
    "rollouts": {},
}


class FakeClient:
    """Acts for a user whose token is the name of a role. What it was asked to change is in ``asked``."""

    asked: list[tuple[Any, ...]] = []
    failure: Exception | None = None
    gate: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, credentials: Any, token: str, *, if_version: int | None = None, key: str = ""):
        self.token, self.if_version, self.key = token, if_version, key
        self._credentials = credentials

    def holder(self) -> Holder:
        if self.token not in ROLES:
            raise TokenError("the token is unknown")
        return Holder(f"anna the {self.token}", self.token)

    def status(self) -> dict[str, Any]:
        return STATUS

    def get_traffic(self, endpoint: str) -> dict[str, Any]:
        if endpoint not in STATUS["endpoints"]:
            raise ValueError(f"endpoint {endpoint!r} does not exist")
        return {**TRAFFIC, "endpoint": endpoint}

    def rollout(self, endpoint: str) -> dict[str, Any]:
        raise ValueError(f"endpoint {endpoint!r} has had no rollout")

    def _existing(self, tag: str) -> Any:
        raise ValueError(f"backend {tag!r} does not exist")

    def __getattr__(self, name: str) -> Any:
        def refuse(*args: Any, **options: Any) -> None:
            self.asked.append((name, *args))
            raise ValueError(f"{name} is refused")

        if name.startswith("_"):
            raise AttributeError(name)
        return refuse

    def set_traffic(self, *args: Any, **options: Any) -> None:
        self.gate()
        if self.failure is not None:
            raise self.failure
        self.asked.append((*args, options, self.if_version, self.key))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    """The class of the clients that act for users."""

    class Fake(FakeClient):
        asked = []

    monkeypatch.setattr(app, "UserClient", Fake)
    return Fake


Ask = Callable[..., Coroutine[Any, Any, httpx.Response]]


def with_console(test: Callable[[Ask], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a test that asks a console; ``role=`` says by whose token."""

    async def main() -> None:
        transport = httpx.ASGITransport(Console(CREDENTIALS, **options))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8070") as http:

            async def ask(method: str, path: str, *, role: str = "operate", **given: Any) -> httpx.Response:
                headers = {"authorization": f"Bearer {role}", **given.pop("headers", {})}
                where = path if path.startswith("//") else f"/api/v1{path}"
                return await http.request(method, where.replace("//", "/", 1), headers=headers, **given)

            await test(ask)

    asyncio.run(main())
