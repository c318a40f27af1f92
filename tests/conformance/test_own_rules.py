"""Numbers of replicas by a rule of one's own, and fixed by hand, as users see them."""

from __future__ import annotations

from pathlib import Path

import pytest

import pointsman as serve
from tests.conftest import wait_until

RULES = """
def mine(ctx):
    if ctx.policy_state == {"asked": 3}:
        raise RuntimeError("no idea")
    return 2 if ctx.deployment_name.startswith("n") else 1, {"asked": min(3, ctx.policy_state.get("asked", 0) + 1)}
"""


@pytest.fixture
def rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """A module with a rule, which can be imported here; the path of the rule."""
    (tmp_path / f"rules_{name}.py").write_text(RULES)
    monkeypatch.syspath_prepend(tmp_path)
    return f"rules_{name}:mine"


def test_a_rule_of_my_own(client: serve.Client, served, name: str, rule: str) -> None:
    """A function of mine says how many replicas there are, and remembers what it likes; when it raises, the status says
    so, and what it was stays. A config that was read can be sent back, and a number needs autoscaling None (AS1, AS12,
    AS13)."""
    served(lambda request: "here", config={"autoscaling": {"policy": rule, "max_replicas": 3}})

    def shown() -> dict:
        found: dict = client.status()["backends"][name]["autoscaling"]
        return found

    wait_until(lambda: shown()["wanted"] == 2, what="the rule is followed")
    remark = wait_until(lambda: shown()["remark"], what="the rule has failed")
    assert (
        remark == f"policy {rule!r} is not followed, and the built-in rule decides: it raised RuntimeError('no idea')"
    )
    config = client.get_backend_config(name)
    assert (config.num_replicas, config.autoscaling.policy) == ("auto", rule)
    client.update_backend_config(name, config)
    assert client.get_backend_config(name) == config
    client.scale(name, 3, hold_s=60)
    assert client.status()["backends"][name]["replicas_running"] == 3
    assert 0 < shown()["hold_s"] <= 60
    for change, error in (
        ({"num_replicas": 1}, "autoscaling None"),
        ({"autoscaling": {"target_ongoing_requests": 1000}}, "max_concurrent_queries"),
    ):
        with pytest.raises(ValueError, match=error):
            client.update_backend_config(name, change)
    with pytest.raises(ImportError, match="no_such_module"):
        client.update_backend_config(name, {"autoscaling": {"policy": "no_such_module:rule"}})
    with pytest.raises(ValueError, match="0 to 3"):
        client.scale(name, 4)
    client.update_backend_config(name, {"autoscaling": None, "num_replicas": 1})
    assert client.get_backend_config(name).num_replicas == 1
    with pytest.raises(ValueError, match="not autoscaled"):
        client.scale(name, 1)
