"""Comparing functions of users: good ones, and ones that do harm."""

from __future__ import annotations

import os
import time
from typing import Any

GIGABYTES = 3 * 1024**3


def same_label(primary: Any, shadow: Any) -> bool:
    return bool(primary["label"] == shadow["label"])


def does_harm(primary: Any, shadow: Any) -> bool:
    what = shadow["label"]
    if what == "hang":
        time.sleep(1000)
    elif what == "die":
        os._exit(3)
    elif what == "eat":
        return len(bytearray(GIGABYTES)) > 0
    elif what == "fork":
        os.fork()
    elif what == "raise":
        raise ValueError("no")
    return True
