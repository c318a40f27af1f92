"""client.keywords: keyword arguments that do not exist, and where they belong."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import pointsman as serve
from pointsman.client.keywords import explains_keywords

CLIENT: Any = object.__new__(serve.Client)
"""One that is never asked for anything: its methods look at their arguments first."""


def function(request: Any) -> None: ...


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: CLIENT.deploy("d", function, num_replicas=2), r"into config: deploy\(.*'num_replicas': 2"),
        (lambda: CLIENT.deploy("d", function, max_batch_size=8), r"max_batch_size belongs into config"),
        (lambda: CLIENT.create_backend("b", function, num_replicas=2), r"\(\.\.\., config={'num_replicas': 2}\)"),
        (lambda: CLIENT.create_backend("b", function, user_config={"a": 1}), r"'user_config': {'a': 1}"),
        (lambda: CLIENT.create_backend("b", function, graceful_shutdown_timeout_s=3), r"belongs into config"),
        (lambda: CLIENT.update_backend_config("b", num_replicas=2), r"into config_options: update_backend_config"),
        (lambda: CLIENT.deploy("d", function, num_gpus=1), r"num_gpus belongs into ray_actor_options: deploy"),
        (lambda: CLIENT.create_backend("b", function, env_vars={}), r"env_vars belongs into ray_actor_options"),
        (lambda: CLIENT.create_backend("b", function, route="/b"), r"create_endpoint\(\), or use deploy\(\)"),
        (lambda: CLIENT.deploy("d", function, rout="/b"), r"did you mean 'route'"),
        (lambda: CLIENT.create_backend("b", function, model_path="x"), r"'model_path'.*by position"),
    ],
)  # fmt: skip
def test_a_misplaced_keyword(call: Any, text: str) -> None:
    """``deploy(..., num_replicas=2)`` and its like say where the argument belongs, before anything is done (CB4)."""
    with pytest.raises(TypeError, match=text):
        call()


def test_signatures_stay() -> None:
    """What editors and type checkers see of an operation is its own signature."""
    assert "config" in inspect.signature(serve.Client.deploy).parameters
    assert "num_replicas" not in inspect.signature(serve.Client.deploy).parameters

    @explains_keywords
    def operation(self: object, a: int, *, config: int = 0) -> int:
        return a + config

    assert operation(None, 1, config=2) == 3
    assert operation(None, a=1) == 1
