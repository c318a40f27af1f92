"""Who has a port that is in use."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from pointsman.engine.listening import bind
from pointsman.engine.portholder import _inodes, holder_of

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1F40 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 00000000:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
   3: 00000000000000000000000001000000:1F40 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4714 1
"""


def test_listening_sockets_of_a_port():
    """Sockets that listen on the port are found in the system's table, connections of it are not."""
    assert _inodes(TABLE, 8000) == {"4711", "4714"}
    assert _inodes(TABLE, 80) == set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the table of sockets is Linux's")
def test_a_port_in_use_names_its_holder():
    """A port that another program has is an error that names the process and its command, so that I can end it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port}: .*, by process {os.getpid()} \(.*python.*\)"):
            bind("127.0.0.1", port)
    assert holder_of(port) == ""
