"""client.operations: what users read of an instance."""

from __future__ import annotations

import io
import re

from rich.console import Console

from pointsman.cli.tables import models_table, status_tables
from pointsman.client.operations import status_view
from pointsman.model import EndpointSpec, TrafficPolicy
from pointsman.model.evidence import Tally, TallyKey, Window
from pointsman.stats.latency import bucket_of
from pointsman.wire.commands import BackendView, ReplicaView, Status
from tests.unit.reconciling import backend


def test_a_replica_without_a_process_has_no_pid() -> None:
    """Somebody kills what the status lists: of a replica that has not begun there is nothing to kill, and ``kill(0)``
    would be everybody in their own group (LC10)."""
    replicas = (ReplicaView("m#aaaaaa", 0, "LAUNCHED", ()), ReplicaView("m#bbbbbb", 17, "READY", ()))
    shown = BackendView(backend(tag="m"), "UPDATING", 1, None, replicas)
    view = status_view(Status(1, 5, "", None, 0, {}, {"m": shown}, ()), None)
    assert [replica["pid"] for replica in view["backends"]["m"]["replicas"]] == [None, 17]


def test_the_status_says_how_each_backend_did_in_the_last_minute() -> None:
    """A canary that is slow and errs is seen in the status: requests, errors, latencies, of each backend."""
    policy = TrafficPolicy(3, {"main": 0.5, "canary": 0.5})
    tallies = {
        TallyKey("greet", 0, "main"): Tally(60, 0, {bucket_of(0.205): 60}, 60 * 0.205),
        TallyKey("greet", 0, "canary"): Tally(30, 3, {bucket_of(0.4): 30}, 12.0),
        TallyKey("other", 0, "main"): Tally(5, 5, {bucket_of(9.0): 5}, 45.0),
    }
    endpoints = {"greet": EndpointSpec("greet", "/greet", ("GET",), policy)}
    view = status_view(Status(1, 5, "", None, 0, endpoints, {}, (), last_minute=Window(60.0, tallies)), None)
    minute = view["endpoints"]["greet"]["last_minute"]
    assert (minute["requests"], minute["per_second"], minute["errors"]) == (90, 1.5, 3)
    assert minute["backends"]["canary"]["latency_ms"]["mean"] == 400.0
    output = io.StringIO()
    console = Console(file=output, width=140)
    for table in status_tables(view):
        console.print(table)
    assert re.search(" main.*\n +p50 20[3-7], p99 20[3-7] ms", output.getvalue())
    assert re.search(" canary.*\n +p50 (39[6-9]|40[0-4]), p99 (39[6-9]|40[0-4]) ms, 3 errors", output.getvalue())


def test_the_models_of_a_backend_as_a_table() -> None:
    """Each model is a line with its replica: those in use first, then those used last; names from clients lose what
    could move the cursor, and a backend without models says so (MX11)."""
    held = {
        "shop#b": [
            {"id": "old", "bytes": 0, "in_use": 0, "idle_s": 4000.4},
            {"id": "new", "bytes": 1234567, "in_use": 0, "idle_s": 2.0},
            {"id": "busy\x1b[2J", "bytes": 7, "in_use": 3, "idle_s": 0.0},
        ],
        "shop#a": [{"id": "one", "bytes": 0, "in_use": 1, "idle_s": 0.0}],
    }
    lines = io.StringIO()
    Console(file=lines, width=100).print(models_table("shop", held))
    rows = [re.split(r"  +", line.strip()) for line in lines.getvalue().splitlines() if "shop#" in line]
    assert rows == [
        ["shop#a", "one", "-", "1", "-"],
        ["shop#b", "busy?[2J", "7", "3", "-"],
        ["shop#b", "new", "1,234,567", "0", "2 s"],
        ["shop#b", "old", "-", "0", "4,000 s"],
    ]
    assert str(models_table("shop", {"shop#a": []})) == "The replicas of shop hold no models."
