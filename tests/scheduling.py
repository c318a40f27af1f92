"""Which worker of pytest-xdist runs what, and in which order.

A file is run by one worker, since its tests share what its fixtures set up. Folders whose tests take long come first:
at the end only short files are left, and no worker waits for the other. The tests of clusters are run by one worker,
and so are the conformance suite's tests on Ray, which share a cluster: when several clusters start at once on a busy
machine, they take longer than the 30 s that Ray allows.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

LONG_FIRST = ("tests/cluster", "tests/process", "tests/docs", "on Ray", "tests/conformance", "tests/loop")
"""What is not named comes last."""


def scope_of(nodeid: str) -> str:
    """The name of what one worker runs in one go."""
    file, _, test = nodeid.partition("::")
    on_ray = file.startswith("tests/conformance/") and "[ray" in test
    if on_ray:
        return "on Ray"
    return "tests/cluster" if file.startswith("tests/cluster/") else file


def place(item: pytest.Item) -> int:
    """How early a test is run; a smaller number comes first."""
    scope = scope_of(item.nodeid)
    return next((number for number, prefix in enumerate(LONG_FIRST) if scope.startswith(prefix)), len(LONG_FIRST))


class ByFile(LoadFileScheduling):
    """Keeps the order in which tests are collected, and the two engines apart."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)
