"""The files of docs/monitoring with the real Prometheus: it reads the page, and knows every metric they ask for."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import pointsman as serve
from tests.conftest import WAIT_S, http_for, wait_until

FILES = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
RULES = FILES / "alerts.yml"
KNOWN_LINT = re.compile(
    r"(serve_backend_request_counter|serve_backend_error_counter|serve_backend_replica_starts|serve_num_http_requests"
    r"|serve_num_router_requests|serve_num_shadow_dropped) counter metrics should have \"_total\" suffix"
    r"|serve_backend_(request|error)_counter metric name should not include type 'counter'"
    r"|serve_backend_(queuing|processing)_latency_ms use base unit \"seconds\" instead of \"milliseconds\""
    r"|serve_backend_(queuing|processing)_latency_ms metric names should not contain abbreviated units"
)
"""What promtool says of names that are a promise. It must say nothing else."""

PATH = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.prefix) / "prometheus" / "usr" / "bin")])
PROMETHEUS, PROMTOOL = shutil.which("prometheus", path=PATH), shutil.which("promtool", path=PATH)
"""Installed, or unpacked by `make prometheus`."""

pytestmark = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL), reason="prometheus and promtool are not there (Debian: make prometheus)"
)


@serve.accept_batch
def model(requests):
    return [ValueError("odd") if "odd" in request.query_params else "fine" for request in requests]


def busy(client: serve.Client) -> None:
    """A little of everything: answers, errors, a shadow that is compared, a rollout, an unknown path."""
    client.create_backend("model", model, config={"max_batch_size": 4, "num_replicas": "auto"})
    client.create_backend("shadow", lambda request: "seen")
    client.create_endpoint("model", backend="model", route="/model")
    client.create_endpoint("other", backend="model")
    client.shadow_traffic("model", "shadow", 1.0, compare="json")
    client.start_rollout("other", "shadow")
    with http_for(client) as http:
        statuses = [http.get(path).status_code for path in ("/model", "/model?odd", "/nowhere")]
    assert statuses == [200, 500, 404]


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    with serve.start(http_options={"port": 0}, metrics_export_port=0) as client:
        busy(client)
        yield client


@pytest.fixture(scope="module")
def prometheus(client: serve.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A Prometheus with the documented configuration, but for the address of the instance."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(RULES, folder)
    config = (FILES / "prometheus.yml").read_text()
    assert "127.0.0.1:8080" in config
    assert client.metrics_address is not None
    config = config.replace("127.0.0.1:8080", client.metrics_address.removeprefix("http://"))
    (folder / "prometheus.yml").write_text(config.replace("5s", "250ms"))
    process = subprocess.Popen(
        [
            str(PROMETHEUS),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("wb"),
    )
    try:
        wait_until(lambda: ports_of(process), what="Prometheus listens")
        with httpx.Client(base_url=f"http://127.0.0.1:{ports_of(process)[0]}", timeout=WAIT_S) as http:
            wait_until(lambda: is_ready(http), what="Prometheus is ready")
            yield http
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ports_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Where it listens."""
    connections = psutil.Process(process.pid).net_connections("inet")
    return [connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN]


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def ask(http: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = http.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    return list(answer["data"]["result"])


def expressions() -> list[str]:
    """Every query of the dashboard and of the alerts."""
    panels = json.loads((FILES / "dashboard.json").read_text())["panels"]
    rules = re.findall(r"expr: (?:>-\n)?((?:.+\n)(?: {12,}.+\n)*)", RULES.read_text())
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(found) > 12
    assert len(rules) == RULES.read_text().count("expr:")
    return [*found, *(" ".join(rule.split()) for rule in rules)]


def test_promtool_accepts_the_page(client):
    """promtool reads the page, and finds fault only with the names that are a promise (MO1)."""
    page = httpx.get(f"{client.metrics_address}/metrics", timeout=WAIT_S).content
    done = subprocess.run([str(PROMTOOL), "check", "metrics"], input=page, capture_output=True, timeout=60)
    lines = (done.stdout + done.stderr).decode().splitlines()
    assert [line for line in lines if not KNOWN_LINT.fullmatch(line)] == []


def test_promtool_accepts_rules_and_configuration():
    """The alert rules and the scrape configuration of the documentation are valid."""
    for command in (["rules", str(RULES)], ["config", str(FILES / "prometheus.yml")]):
        done = subprocess.run([str(PROMTOOL), "check", *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_knows_every_metric_that_is_asked_for(prometheus):
    """Prometheus scrapes an instance, and each metric of the alerts and of the dashboard is there; each query runs."""
    wait_until(lambda: ask(prometheus, 'up{job="pointsman"} == 1'), what="Prometheus has scraped the instance")
    names = {name for expression in expressions() for name in re.findall(r"serve_\w+", expression)}
    assert len(names) >= 15
    # Those have no series before there is something to count.
    quiet = {
        "serve_num_shadow_dropped",
        "serve_router_retries_total",
        "serve_router_queued_queries",
        "serve_metrics_dropped_total",
        "serve_autoscaling_decisions_total",
        "serve_num_multiplexed_models",
        "serve_multiplexed_models_load_counter",
        "serve_multiplexed_models_unload_counter",
        "serve_multiplexed_model_load_latency_ms_bucket",
    }
    wait_until(lambda: all(ask(prometheus, name) for name in names - quiet), what="there is each metric")
    for expression in expressions():
        ask(prometheus, expression)


def test_prometheus_evaluates_the_alerts(prometheus):
    """Prometheus has loaded the alert rules and evaluates each of them without an error."""

    def evaluated():
        groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert {rule["lastError"] for rule in rules if "lastError" in rule} <= {""}
        return rules and all(rule["health"] == "ok" for rule in rules)

    wait_until(evaluated, what="all alert rules are evaluated")


def test_alerts_of_rollouts_fire_and_end(tmp_path):
    """An operator is told of a rollout that was turned back, for half an hour, and of one that waits for somebody."""
    fires = {
        "RolloutTurnedBack": ("rolled_back", "The rollout of words to new was turned back less than 30 minutes ago"),
        "RolloutWaits": ("paused", "The rollout of words to new is paused: somebody must decide"),
    }
    labels = {"endpoint": "words", "backend": "new"}
    series = {
        f'serve_rollout_state{{endpoint="words",backend="new",state="{state}"}}': numbers
        for state, numbers in {"running": "1x4 0x100", "rolled_back": "_x5 1x100", "paused": "0x59 1x40"}.items()
    }
    alerts = {name: ({**labels, "state": state}, summary) for name, (state, summary) in fires.items()}
    expected = {4: None, 6: "RolloutTurnedBack", 30: "RolloutTurnedBack", 40: None, 72: "RolloutWaits"}
    check_alerts(tmp_path, series, alerts, expected)


def test_alerts_of_autoscaling_fire_and_end(tmp_path):
    """An operator is told of a backend that needs more replicas than it may have, and of one without room (AS17)."""
    series = {
        'serve_autoscaling_desired_replicas{backend="m"}': "2x9 9x19 2x100",
        'serve_autoscaling_wanted_replicas{backend="m"}': "2x9 5x19 2x100",
        'serve_autoscaling_blocked{backend="m"}': "0x39 1x20 0x100",
    }
    alerts = {
        "WantsMoreThanItMay": (
            {"backend": "m"},
            "The calls for m need 9 replicas, more than its max_replicas or a hold allows",
        ),
        "NoRoomForReplicas": (
            {"backend": "m"},
            "m has fewer replicas than are wanted: there is no room, or they fail to start",
        ),
    }
    expected = {9: None, 12: None, 16: "WantsMoreThanItMay", 33: None, 41: None, 44: "NoRoomForReplicas", 65: None}
    check_alerts(tmp_path, series, alerts, expected)


def check_alerts(folder, series, alerts, expected):
    """Have promtool evaluate the rules: which of the alerts, with which labels and summary, fires in which minute."""
    shutil.copy(RULES, folder)
    tests = [
        {
            "eval_time": f"{minute}m",
            "alertname": name,
            "exp_alerts": [{"exp_labels": {**labels, "severity": "ticket"}, "exp_annotations": {"summary": summary}}]
            if name == alert
            else [],
        }
        for minute, alert in expected.items()
        for name, (labels, summary) in alerts.items()
    ]
    values = [{"series": name, "values": numbers} for name, numbers in series.items()]
    groups = [{"interval": "1m", "input_series": values, "alert_rule_test": tests}]
    file = folder / "tests.json"  # which is YAML, too
    file.write_text(json.dumps({"rule_files": [RULES.name], "tests": groups}))
    done = subprocess.run([str(PROMTOOL), "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
