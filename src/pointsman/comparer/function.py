"""The process of a user's comparing function: limited in memory, and killed by its parent if it takes too long.

argv: the socket
"""

from __future__ import annotations

import os
import signal
import socket
import sys

import msgspec

from pointsman.comparer.limits import LENGTH, READY, limit_memory
from pointsman.comparing.pairs import Outcome, UserFunction, compare_answers
from pointsman.engine.process import die_with_parent
from pointsman.model.comparison import Function
from pointsman.usercode.packing import import_object, shown
from pointsman.wire.pairs import Pair, Unpacker


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    connection = socket.socket(fileno=int(sys.argv[1]))
    limit_memory()
    how = msgspec.msgpack.decode(_read(connection), type=Function)
    try:
        function = import_object(how.path, how.sys_path)
    except BaseException as error:  # noqa: BLE001 - user code, which may even try to exit
        sys.exit(f"the comparing function {how.path!r} cannot be used here: {shown(error)}")
    _write(connection, READY)
    unpacker = Unpacker()
    while data := connection.recv(1 << 18):
        for pair in unpacker.feed(data):
            if isinstance(pair, Pair):
                _write(connection, msgspec.msgpack.encode(_compare(how, pair, function)))


def _compare(how: Function, pair: Pair, function: UserFunction) -> Outcome:
    process = os.getpid()
    try:
        return compare_answers(how, pair.primary, pair.shadow, function)
    except MemoryError:
        os._exit(1)  # not an error of one pair: what is left of this process is of no use
    finally:
        if os.getpid() != process:
            os._exit(0)  # user code has forked, and one pair is answered once


def _read(connection: socket.socket) -> bytes:
    size = LENGTH.unpack(_exactly(connection, LENGTH.size))[0]
    return _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            os._exit(0)  # the parent has ended
        data += more
    return data


def _write(connection: socket.socket, message: bytes) -> None:
    connection.sendall(LENGTH.pack(len(message)) + message)


if __name__ == "__main__":
    main()
