"""Small apps of other frameworks, each with a route, an upload and a socket where it has sockets."""

from typing import Any


def starlette_app() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    async def hello(request: Request) -> JSONResponse:
        return JSONResponse({"hello": request.path_params["name"], "url": str(request.url_for("hello", name="b"))})

    async def size(request: Request) -> JSONResponse:
        return JSONResponse({"size": len(await request.body())})

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    routes = [Route("/hello/{name}", hello, name="hello"), Route("/size", size, methods=["POST"])]
    return Starlette(routes=[*routes, WebSocketRoute("/echo", echo)])


def litestar_app() -> Any:
    from litestar import Litestar, Request, WebSocket, get, post, websocket

    @get("/hello/{name:str}", name="hello")
    async def hello(name: str, request: Request) -> dict[str, str]:  # type: ignore[type-arg]
        base = str(request.base_url).rstrip("/")
        return {"hello": name, "url": f"{base}/hello/b"}

    @post("/size", status_code=200)
    async def size(request: Request) -> dict[str, int]:  # type: ignore[type-arg]
        return {"size": len(await request.body())}

    @websocket("/echo")
    async def echo(socket: WebSocket) -> None:  # type: ignore[type-arg]
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    return Litestar([hello, size, echo])


def django_app() -> Any:
    import django
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.http import HttpRequest, JsonResponse
    from django.urls import path, reverse

    def hello(request: HttpRequest, name: str) -> JsonResponse:
        return JsonResponse({"hello": name, "url": request.build_absolute_uri(reverse("hello", args=["b"]))})

    async def size(request: HttpRequest) -> JsonResponse:
        return JsonResponse({"size": len(request.body)})

    class Urls:
        urlpatterns = [path("hello/<str:name>", hello, name="hello"), path("size", size)]

    settings.configure(ROOT_URLCONF=Urls, ALLOWED_HOSTS=["*"], SECRET_KEY="x", DATA_UPLOAD_MAX_MEMORY_SIZE=None)
    django.setup()
    return get_asgi_application()
