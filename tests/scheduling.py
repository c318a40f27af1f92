"""Which worker of pytest-xdist runs what, and in which order.

A file is run by one worker, since its tests share what its fixtures set up. Folders whose tests take long come first:
at the end only short files are left, and no worker waits for the other. The tests of clusters are run by one worker,
and so are the conformance suite's tests on Ray, which share a cluster: when several clusters start at once on a busy
machine, they take longer than the 30 s that Ray allows. The tests in a browser share one browser and one instance.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

LONG_FIRST = (
    "tests/cluster",
    "tests/browser",
    "tests/process",
    "tests/docs",
    "on Ray",
    "tests/conformance",
    "tests/loop",
)
"""What is not named comes last."""

ONE_WORKER = ("tests/cluster", "tests/browser")
"""Folders whose files are run by one worker."""


def scope_of(nodeid: str) -> str:
    """The name of what one worker runs in one go."""
    file, _, test = nodeid.partition("::")
    on_ray = file.startswith("tests/conformance/") and "[ray" in test
    if on_ray:
        return "on Ray"
    return next((folder for folder in ONE_WORKER if file.startswith(f"{folder}/")), file)


def place(item: pytest.Item) -> int:
    """How early a test is run; a smaller number comes first."""
    scope = scope_of(item.nodeid)
    return next((number for number, prefix in enumerate(LONG_FIRST) if scope.startswith(prefix)), len(LONG_FIRST))


class ByFile(LoadFileScheduling):
    """Keeps the order in which tests are collected, and the two engines apart."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)
