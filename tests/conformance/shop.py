"""A FastAPI app of some forty routes and sockets, as people have them; its tests are in ``test_apps``."""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Request,
    Response,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
    status,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from pydantic import BaseModel, Field
from starlette.exceptions import WebSocketException

FILE = bytes(range(256)) * 20


class Item(BaseModel):
    name: str = Field(min_length=1)
    price: float = Field(gt=0)
    tags: list[str] = []


class OutOfStock(Exception):
    pass


router = APIRouter(prefix="/items", tags=["items"])


def sent_file() -> Path:
    path = Path(tempfile.gettempdir()) / "pointsman-shop.bin"
    if not path.exists() or path.read_bytes() != FILE:
        path.write_bytes(FILE)
    return path


def items_of(request: Request) -> dict[int, Item]:
    items: dict[int, Item] = request.state.items
    return items


Items = Annotated[dict[int, Item], Depends(items_of)]


@router.get("/")
def list_items(items: Items, skip: int = 0, limit: int = 10) -> list[Item]:
    return list(items.values())[skip : skip + limit]


@router.post("/", status_code=status.HTTP_201_CREATED)
async def add_item(item: Item, items: Items, request: Request, response: Response) -> dict[str, int]:
    number = len(items) + 1
    items[number] = item
    response.headers["location"] = str(request.url_for("one_item", number=number))
    return {"number": number}


@router.get("/{number}")
def one_item(number: int, items: Items) -> Item:
    if number not in items:
        raise HTTPException(404, f"no item {number}", headers={"x-why": "unknown"})
    return items[number]


@router.put("/{number}")
async def change_item(number: int, item: Item, items: Items) -> Item:
    items[number] = item
    return item


@router.delete("/{number}", status_code=204)
async def drop_item(number: int, items: Items) -> None:
    items.pop(number, None)


def make() -> FastAPI:
    """The app."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        app.state.started = True
        yield {"items": {}, "notes": []}

    app = FastAPI(title="Shop", lifespan=lifespan)
    app.add_middleware(GZipMiddleware, minimum_size=2000)
    app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_methods=["GET", "POST"])
    app.include_router(router)
    _basics(app)
    _bodies(app)
    _streams(app)
    _sockets(app)
    inner = FastAPI()

    @inner.get("/where")
    def where(request: Request) -> dict[str, str]:
        return {"root": request.scope["root_path"], "url": str(request.url_for("where"))}

    app.mount("/inner", inner)
    return app


def _basics(app: FastAPI) -> None:
    @app.get("/", response_class=HTMLResponse)
    def home() -> str:
        return "<h1>Shop</h1>"

    @app.get("/state")
    def state(request: Request) -> dict[str, Any]:
        return {"started": request.app.state.started, "client": bool(request.client)}

    @app.get("/headers")
    def headers(x_token: Annotated[str, Header()], x_many: Annotated[list[str] | None, Header()] = None) -> Any:
        return {"token": x_token, "many": x_many}

    @app.get("/cookies")
    def cookies(response: Response, seen: Annotated[str | None, Cookie()] = None) -> dict[str, str | None]:
        response.set_cookie("seen", "yes")
        response.set_cookie("other", "too", httponly=True)
        return {"seen": seen}

    @app.get("/teapot", status_code=418)
    def teapot() -> PlainTextResponse:
        return PlainTextResponse("short and stout", 418, {"x-kind": "teapot"})

    @app.exception_handler(OutOfStock)
    async def out_of_stock(request: Request, error: OutOfStock) -> JSONResponse:
        return JSONResponse({"stock": 0}, 409)

    @app.get("/stock")
    def stock() -> None:
        raise OutOfStock

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("on purpose")

    @app.get("/old")
    def old(request: Request) -> RedirectResponse:
        return RedirectResponse(request.url_for("home"))

    @app.head("/only-head")
    def only_head() -> Response:
        return Response(headers={"x-size": "12", "content-length": "12"})

    @app.get("/cached")
    def cached(request: Request) -> Response:
        if request.headers.get("if-none-match") == '"v1"':
            return Response(status_code=304, headers={"etag": '"v1"'})
        return PlainTextResponse("content", headers={"etag": '"v1"'})

    @app.get("/noted")
    async def noted(request: Request, tasks: BackgroundTasks) -> int:
        tasks.add_task(request.state.notes.append, 1)
        return len(request.state.notes)

    @app.get("/path/{rest:path}")
    def path(rest: str, request: Request) -> dict[str, str]:
        return {"rest": rest, "query": request.url.query, "scheme": request.url.scheme}

    async def resource() -> AsyncIterator[str]:
        yield "open"

    @app.get("/depends")
    async def depends(value: Annotated[str, Depends(resource)]) -> str:
        return value

    @app.api_route("/any", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    async def any_method(request: Request) -> str:
        return request.method


def _bodies(app: FastAPI) -> None:
    @app.post("/form")
    async def form(name: Annotated[str, Form()], age: Annotated[int, Form()]) -> dict[str, Any]:
        return {"name": name, "age": age}

    @app.post("/upload")
    async def upload(file: Annotated[UploadFile, File()], note: Annotated[str, Form()] = "") -> dict[str, Any]:
        return {"name": file.filename, "size": len(await file.read()), "type": file.content_type, "note": note}

    @app.post("/count")
    async def count(request: Request) -> dict[str, int]:
        size = pieces = 0
        async for piece in request.stream():
            size += len(piece)
            pieces += 1
        return {"size": size}

    @app.post("/refuse")
    async def refuse() -> PlainTextResponse:
        return PlainTextResponse("no need to send it", 413)

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type=request.headers.get("content-type"))

    @app.get("/file")
    def file() -> FileResponse:
        return FileResponse(sent_file(), media_type="application/octet-stream", filename="shop.bin")


def _streams(app: FastAPI) -> None:
    @app.get("/lines")
    def lines(count: int = 5) -> StreamingResponse:
        return StreamingResponse((f"line {number}\n" for number in range(count)), media_type="text/plain")

    @app.get("/events")
    async def events() -> StreamingResponse:
        async def made() -> AsyncIterator[str]:
            for number in range(3):
                yield f"data: {json.dumps({'number': number})}\n\n"
                await asyncio.sleep(0)

        return StreamingResponse(made(), media_type="text/event-stream")

    @app.get("/big")
    async def big() -> StreamingResponse:
        async def made() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield b"x" * 100_000

        headers = {"content-encoding": "identity"}
        return StreamingResponse(made(), media_type="application/octet-stream", headers=headers)


def _sockets(app: FastAPI) -> None:
    @app.websocket("/ws/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                if message.get("text") is not None:
                    await socket.send_text(message["text"])
                else:
                    await socket.send_bytes(message["bytes"])

    @app.websocket("/ws/rooms/{room}")
    async def room(socket: WebSocket, room: str, q: int, x_name: Annotated[str | None, Header()] = None) -> None:
        await socket.accept(headers=[(b"x-room", room.encode())])
        await socket.send_json({"room": room, "q": q, "name": x_name, "items": len(socket.state.items) >= 0})
        await socket.close(4000, "done")

    @app.websocket("/ws/chat")
    async def chat(socket: WebSocket) -> None:
        offered = socket.scope["subprotocols"]
        await socket.accept(subprotocol="chat.v2" if "chat.v2" in offered else None)
        async for message in socket.iter_json():
            await socket.send_json({"said": message})

    @app.websocket("/ws/private")
    async def private(socket: WebSocket, token: str = "") -> None:
        if token != "secret":
            raise WebSocketException(status.WS_1008_POLICY_VIOLATION, "who are you")
        await socket.accept()
        await socket.send_text("welcome")

    @app.websocket("/ws/denied")
    async def denied(socket: WebSocket) -> None:
        await socket.send_denial_response(JSONResponse({"why": "closed"}, 402, {"x-why": "closed"}))

    @app.websocket("/ws/push")
    async def push(socket: WebSocket, count: int) -> None:
        await socket.accept()
        for number in range(count):
            await socket.send_bytes(bytes([number % 256]) * 1000)
        await socket.close()

    @app.websocket("/ws/fails")
    async def fails(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_text()
        raise RuntimeError("on purpose")
