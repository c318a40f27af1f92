"""The process of a user's comparing function: limited in memory, and killed by its parent if it takes too long.

argv: the socket
"""

from __future__ import annotations

import os
import sys

import msgspec

from pointsman.comparing.pairs import Outcome, UserFunction, compare_answers
from pointsman.engine.limited import READY, connected, read_message, write_message
from pointsman.model.comparison import Function
from pointsman.usercode.packing import import_object, shown
from pointsman.wire.pairs import Pair, Unpacker


def main() -> None:
    connection = connected()
    how = msgspec.msgpack.decode(read_message(connection), type=Function)
    try:
        function = import_object(how.path, how.sys_path)
    except BaseException as error:  # noqa: BLE001 - user code, which may even try to exit
        sys.exit(f"the comparing function {how.path!r} cannot be used here: {shown(error)}")
    write_message(connection, READY)
    unpacker = Unpacker()
    while data := connection.recv(1 << 18):
        for pair in unpacker.feed(data):
            if isinstance(pair, Pair):
                write_message(connection, msgspec.msgpack.encode(_compare(how, pair, function)))


def _compare(how: Function, pair: Pair, function: UserFunction) -> Outcome:
    process = os.getpid()
    try:
        return compare_answers(how, pair.primary, pair.shadow, function)
    except MemoryError:
        os._exit(1)  # not an error of one pair: what is left of this process is of no use
    finally:
        if os.getpid() != process:
            os._exit(0)  # user code has forked, and one pair is answered once


if __name__ == "__main__":
    main()
