"""What a connection is doing. Two sides, and each is in one state at a time.

What the client sends, as the reader sees it:

    HEAD ──► BODY ──► HEAD
      └────────────────▲     a request without a body

    HEAD   a head is awaited, or part of it has come
    BODY   a body is being received; whether anybody wants it is the other side's business

What the server does with it:

    IDLE ──► DIRECT ──► IDLE        a small request that has come whole
      │        └──────► APP         its answer is a stream, or the client does not read
      ├────► WAITS ───► DIRECT      a small request whose body comes right behind its head
      │        └──────► APP         its body is late
      ├────► APP ─────► IDLE        every other request
      ├────► SOCKET                 a WebSocket, to its end
      └────► OVER, and so from all states

    IDLE     no request is there that has no answer yet
    WAITS    a head was read whose request can go the direct way, and its body is due within moments
    DIRECT   the request is whole and was given to the app; its answer leaves in one piece
    APP      a task runs an ASGI app, which asks for the body, and sends the answer in messages
    SOCKET   all that comes belongs to a WebSocket, once its handshake was accepted
    OVER     the last answer has left, or the connection is gone; nothing that comes is looked at

Both sides together:

    - A head is read only while the server is IDLE. So one request is there at a time, answers leave in the order of
      requests, and what is wrong with a request is said behind the answers to those before it. What comes meanwhile is
      held as bytes, and no more is read.
    - DIRECT means HEAD: the body has come, all of it.
    - IDLE and BODY: the answer did not wait for the body. The rest of it is dropped, for a while.
    - SOCKET has no way back: a handshake that is denied ends the connection behind its answer, so what a client has
      sent for a WebSocket is never taken for a request.
    - OVER has no way out: a request that comes behind the last one never runs.
"""

from __future__ import annotations

from typing import Final

HEAD: Final = 0
BODY: Final = 1

IDLE: Final = 0
WAITS: Final = 1
DIRECT: Final = 2
APP: Final = 3
OVER: Final = 4
SOCKET: Final = 5

# Not looked at while the server serves: a test holds each step of each connection against these two.

NEXT: Final[dict[int, tuple[int, ...]]] = {
    IDLE: (WAITS, DIRECT, APP, SOCKET, OVER),
    WAITS: (DIRECT, APP, OVER),
    DIRECT: (IDLE, APP, OVER),
    APP: (IDLE, OVER),
    SOCKET: (OVER,),
    OVER: (),
}
"""What the server may do next."""
TOGETHER: Final[dict[int, tuple[int, ...]]] = {
    IDLE: (HEAD, BODY),
    WAITS: (BODY,),
    DIRECT: (HEAD,),
    APP: (HEAD, BODY),
    SOCKET: (HEAD,),
    OVER: (HEAD, BODY),
}
"""What the client may be sending meanwhile."""
