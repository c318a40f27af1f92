"""client.operations: what users read of an instance."""

from __future__ import annotations

from pointsman.client.operations import status_view
from pointsman.wire.commands import BackendView, ReplicaView, Status
from tests.unit.reconciling import backend


def test_a_replica_without_a_process_has_no_pid() -> None:
    """Somebody kills what the status lists: of a replica that has not begun there is nothing to kill, and ``kill(0)``
    would be everybody in their own group (LC10)."""
    replicas = (ReplicaView("m#aaaaaa", 0, "LAUNCHED", ()), ReplicaView("m#bbbbbb", 17, "READY", ()))
    shown = BackendView(backend(tag="m"), "UPDATING", 1, None, replicas)
    view = status_view(Status(1, 5, "", None, 0, {}, {"m": shown}, ()), None)
    assert [replica["pid"] for replica in view["backends"]["m"]["replicas"]] == [None, 17]
