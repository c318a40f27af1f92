"""The console's HTTP: the files of the page, and the API below ``/api/v1``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pointsman.calling.session import Credentials
from pointsman.console.behalf import UserClient
from pointsman.console.sampler import Sampler
from pointsman.engine.base import Address
from pointsman.exceptions import ServeException

PAGE = Path(__file__).parent / "page"


def make_app(credentials: Credentials, address: Address | None, sampler: Sampler) -> Starlette:
    """The console of an instance.

    Args:
        credentials: with which it reads.
        address: of the instance, for what its status shows.
        sampler: of its numbers.
    """

    def client_of(request: Request) -> UserClient:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return UserClient(credentials, address, token if scheme.lower() == "bearer" else "")

    def reading(read: Callable[[UserClient, Request], Any]) -> Any:
        async def endpoint(request: Request) -> Response:
            client = client_of(request)
            try:
                await asyncio.to_thread(client.holder)
                return JSONResponse(await asyncio.to_thread(read, client, request))
            except ServeException as error:
                return JSONResponse({"title": "refused", "status": 401, "detail": str(error)}, 401)

        return endpoint

    def me(client: UserClient, request: Request) -> Any:
        holder = client.holder()
        return {"name": holder.name, "role": holder.role}

    def stats(client: UserClient, request: Request) -> Any:
        over_s = request.query_params.get("over_s")
        return client.stats(float(over_s) if over_s else None)

    def series(client: UserClient, request: Request) -> Any:
        query = request.query_params
        return sampler.series(
            endpoint=query.get("endpoint"), backend=query.get("backend"), day=query.get("span", "5m") == "1d"
        )

    async def live(request: Request) -> Any:
        client = client_of(request)
        try:
            await asyncio.to_thread(client.holder)
        except ServeException as error:
            return JSONResponse({"title": "refused", "status": 401, "detail": str(error)}, 401)
        return await sampler.response("gzip" in request.headers.get("accept-encoding", ""))

    api = [
        Route("/live", live),
        Route("/series", reading(series)),
        Route("/me", reading(me)),
        Route("/status", reading(lambda client, request: client.status())),
        Route("/stats", reading(stats)),
        Route("/endpoints", reading(lambda client, request: client.list_endpoints())),
        Route("/backends", reading(lambda client, request: client.list_backends())),
    ]
    return Starlette(
        routes=[
            Route("/healthz", lambda request: PlainTextResponse("ok")),
            Mount("/api/v1", routes=api),
            Route("/", lambda request: FileResponse(PAGE / "index.html")),
            Mount("/", StaticFiles(directory=PAGE)),
        ]
    )
