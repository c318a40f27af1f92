"""What a controller of these tests is given."""

from __future__ import annotations

from pointsman.model import Capacity
from pointsman.wire.handover import ControllerHandover, InstanceSettings

MASTER = b"m" * 32


def controller_handover(
    folder: str = "/nowhere", *, capacity: Capacity | None = None, control_path: str = ""
) -> ControllerHandover:
    """Of an instance named ``n`` with the id ``i``, without HTTP servers that are waited for."""
    settings = InstanceSettings(instance="i", name="n", master_key=MASTER, ingresses=1)
    return ControllerHandover(settings, folder, control_path, capacity or Capacity())
