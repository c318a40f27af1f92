"""Processes that wait for a backend."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pointsman as serve
from tests.conftest import family, wait_until


class Tells:
    def __init__(self) -> None:
        self.told = {
            "pid": os.getpid(),
            "argv": sys.argv[1:],
            "ours": [name for name in os.environ if name.startswith("POINTSMAN_")],
            "variable": os.environ.get("COLOUR"),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "folder": os.getcwd(),
            "numpy": "numpy" in sys.modules,
        }

    def __call__(self, request: Any) -> dict[str, Any]:
        return self.told


def test_a_spare_becomes_a_replica(tmp_path: Path) -> None:
    """With a spare my backend need not wait for Python and the imports; it has its own variables, folder and GPUs, and
    what cannot be had that way gets a process as ever. None outlives the instance (ID5)."""

    def made(name: str, **options: Any) -> dict[str, Any]:
        client.deploy(name, Tells, ray_actor_options=options)
        told: dict[str, Any] = client.get_handle(name).remote().result()
        return told

    def spares() -> set[int]:
        replicas = {one["pid"] for view in client.status()["backends"].values() for one in view["replicas"]}
        return {pid for pid, one in family().items() if "pointsman.replica" in one.cmdline()} - replicas

    with serve.start(
        http_options={"host": None}, metrics_export_port=None, spare_replicas=1, num_gpus=1, log_format="json"
    ) as client:
        (first,) = wait_until(spares)
        told = made("a", env_vars={"COLOUR": "red"}, working_dir=str(tmp_path), num_gpus=1)
        assert told["pid"] == first
        assert (told["variable"], told["gpus"], told["folder"]) == ("red", "0", str(tmp_path))
        assert (len(told["argv"]), told["ours"]) == (1, [])
        assert not told["numpy"]
        (second,) = wait_until(spares)
        assert made("b", env_vars={"COLOUR": "blue", "LC_ALL": "C"})["variable"] == "blue"
        assert spares() == {second}
        assert made("c")["pid"] == second
        tags = client.status()["backends"]
        assert {tag: view["state"] for tag, view in tags.items()} == dict.fromkeys("abc", "RUNNING")
    assert not family()
