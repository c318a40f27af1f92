"""ASGI apps for tests: what they have seen is kept in lists of this module."""

from __future__ import annotations

import asyncio
import json
from typing import Any

SEEN: list[Any] = []
"""What the apps have noted."""
GATES: dict[str, asyncio.Event] = {}
"""Events that apps wait for, by name."""


def gate(name: str) -> asyncio.Event:
    return GATES.setdefault(name, asyncio.Event())


async def _answer(send: Any, body: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-app", b"yes")]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body to its end, and gives it back."""
    if scope["type"] != "http":
        raise NotImplementedError
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            SEEN.append("disconnect")
            return
        body += message["body"]
        more = message["more_body"]
    await _answer(send, body)


async def mirror(scope: Any, receive: Any, send: Any) -> None:
    """Gives each part of the body back as it comes."""
    assert scope["type"] == "http", "no lifespan"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})


async def patient(scope: Any, receive: Any, send: Any) -> None:
    """Reads when its gate opens; notes how it ends."""
    assert scope["type"] == "http", "no lifespan"
    SEEN.append("begin")
    try:
        await gate("read").wait()
        await echo(scope, receive, send)
    except asyncio.CancelledError:
        SEEN.append("cancelled")
        raise


async def listening(scope: Any, receive: Any, send: Any) -> None:
    """Waits until its client has gone."""
    assert scope["type"] == "http", "no lifespan"
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
        SEEN.append("disconnect")
        if scope["path"] == "/stays":
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        SEEN.append("cancelled")
        raise


async def odd(scope: Any, receive: Any, send: Any) -> None:
    """Breaks the rules in the way that the path names."""
    assert scope["type"] == "http", "no lifespan"
    path = scope["path"]
    if path == "/returns":
        return
    if path == "/raises":
        raise ValueError("told")
    if path == "/body-first":
        await send({"type": "http.response.body", "body": b"x"})
    if path == "/number":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": 10})
    if path == "/never":
        await asyncio.Event().wait()
    if path == "/short":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"x"})
    if path == "/breaks":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ValueError("told")
    await _answer(send, b"whole")
    if path == "/after":
        await send({"type": "http.response.body", "body": b"more"})
    if path == "/works":
        await gate("work").wait()
        SEEN.append("worked")


async def big(scope: Any, receive: Any, send: Any) -> None:
    """Sends 6.4 MB in pieces that fit no window, and notes how many have gone."""
    assert scope["type"] == "http", "no lifespan"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(64):
        await send({"type": "http.response.body", "body": bytes([number]) * 100_000, "more_body": True})
        SEEN.append(number)
    await send({"type": "http.response.body", "body": b""})


async def crowded(scope: Any, receive: Any, send: Any) -> None:
    """Two tasks send at once: one of them 3 MB, which take a while, the other one in the middle of that."""
    assert scope["type"] == "http", "no lifespan"
    await send({"type": "http.response.start", "status": 200, "headers": []})

    async def second() -> None:
        await send({"type": "http.response.body", "body": b"B", "more_body": True})

    task = asyncio.ensure_future(second())
    await send({"type": "http.response.body", "body": b"A" * 3_000_000, "more_body": True})
    await send({"type": "http.response.body", "body": b"C", "more_body": True})
    await task
    await send({"type": "http.response.body", "body": b""})


async def talk(scope: Any, receive: Any, send: Any) -> None:
    """A WebSocket that echoes; the path and the texts of messages name what else it does."""
    if scope["type"] == "http":
        await _answer(send, b"http")
        return
    assert scope["type"] == "websocket", "no lifespan"
    await receive()
    path = scope["path"]
    if path == "/b/rejects":
        await send({"type": "websocket.close"})
        return
    if path == "/b/denies":
        await send({"type": "websocket.http.response.start", "status": 402, "headers": [(b"x-why", b"money")]})
        await send({"type": "websocket.http.response.body", "body": b"pay "})
        await asyncio.sleep(0.1)
        return
    if path == "/b/denies-in-parts":
        await send({"type": "websocket.http.response.start", "status": 402, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"pay ", "more_body": True})
        await asyncio.sleep(0.1)
        await send({"type": "websocket.http.response.body", "body": b"more"})
        return
    if path == "/b/raises":
        raise ValueError("told")
    chosen = scope["subprotocols"][0] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-app", b"yes")]})
    if path == "/b/deaf":
        await asyncio.Event().wait()
    if path == "/b/late":
        await gate("late").wait()
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            SEEN.append((message["code"], message["reason"]))
            break
        text = message.get("text")
        if text == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "asked to"})
            break
        if text == "raise":
            raise ValueError("told")
        if text == "return":
            return
        if text == "crowd":
            messages = [{"type": "websocket.send", "bytes": b"%d" % number * 900_000} for number in range(4)]
            await asyncio.gather(*map(send, messages))
            continue
        if text == "flood":
            for _ in range(64):
                await send({"type": "websocket.send", "bytes": b"x" * 70_000})
                SEEN.append("sent")
            continue
        await send({"type": "websocket.send", **{k: v for k, v in message.items() if k in ("text", "bytes")}})


async def stubborn(scope: Any, receive: Any, send: Any) -> None:
    """A lifespan that asks for the next message whatever it has said; what it says begins with `gate`."""
    assert scope["type"] == "lifespan"
    while True:
        message = await receive()
        SEEN.append(message["type"])
        failed = gate("failed").is_set() and message["type"] == "lifespan.startup"
        await send({"type": f"{message['type']}.{'failed' if failed else 'complete'}", "message": "no database"})


async def describe(scope: Any, receive: Any, send: Any) -> None:
    """Answers with its scope; has a lifespan with a state."""
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["from"] = "lifespan"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        SEEN.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})
        return
    text = json.dumps(scope, default=lambda value: value.decode("latin-1"))
    await _answer(send, text.encode())
