"""Policies for numbers of replicas, good and bad."""

from __future__ import annotations

import os
import time
from typing import Any


def counts(ctx: Any) -> tuple[float, dict[str, int]]:
    """One replica more at each question, and what it remembers."""
    seen = ctx.policy_state.get("seen", 0) + 1
    return ctx.current_num_replicas + seen, {"seen": seen}


def does_harm(ctx: Any) -> Any:
    """Does what the number of calls asks for."""
    if ctx.total_num_requests == 1:
        raise ValueError("no idea")
    if ctx.total_num_requests == 2:
        return float("nan")
    if ctx.total_num_requests == 3:
        raise SystemExit(3)
    if ctx.total_num_requests == 4:
        os._exit(0)
    if ctx.total_num_requests == 5:
        return 1, lambda: None
    if ctx.total_num_requests == 6:
        return 1, bytes(2**20)
    if ctx.total_num_requests == 7:
        return bytes(2**40)
    return 2


def hangs(ctx: Any) -> int:
    if ctx.total_num_requests:
        time.sleep(600)
    return 3
