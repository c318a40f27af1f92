"""Calls of Ray Serve's DeploymentHandle, in Ray's own environment; prints the figures as JSON.

Usage: handles_ray.py CALLS SECONDS; all but the limit of calls under way is as Ray Serve has it by default.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_SERVE_LOG_TO_STDERR"] = "0"

import handleload
import ray  # installed in benchmarks/.peers only
from ray import serve


class Answer:
    async def __call__(self, body: bytes) -> bytes:
        return b"hi"


class Forwarder:
    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def __call__(self, body: bytes) -> Any:
        return await self.handle.remote(body)


def deployed(kind: type, **options: Any) -> Any:
    few = {"num_cpus": 0.1}  # reserved, not enforced: three replicas fit on two cores
    return serve.deployment(max_ongoing_requests=100_000, ray_actor_options=few, **options)(kind)


async def from_loop(handle: Any, plan: handleload.Plan, name: str) -> dict[str, float]:
    async def call() -> Any:
        return await handle.remote(handleload.BODY)

    return await handleload.from_loop(call, plan, name)


def main(plan: handleload.Plan) -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {"PYTHONPATH": folder}},
    )
    serve.start(proxy_location="Disabled")
    figures: dict[str, float] = {}
    apps = {"": deployed(Answer).bind(), "forwarded_": deployed(Forwarder).bind(deployed(Answer).bind())}
    for prefix, app in apps.items():
        handle = serve.run(app, name=f"app{prefix}", route_prefix=None)
        figures |= handleload.from_thread(
            lambda handle=handle: handle.remote(handleload.BODY),  # type: ignore[misc]
            lambda response: response.result(),
            plan,
            f"{prefix}sync",
        )
        figures |= handleload.run(from_loop(handle, plan, f"{prefix}async"))
    serve.shutdown()
    ray.shutdown()
    print(json.dumps(figures))


if __name__ == "__main__":
    main(handleload.Plan(int(sys.argv[1]), float(sys.argv[2])))
