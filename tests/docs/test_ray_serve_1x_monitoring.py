"""The examples of Ray Serve 1.x on "Monitoring", each as its own program: started as the page says, read at the port
that it names."""

from __future__ import annotations

from pathlib import Path

from tests.docs.programs import assert_succeeded, run_program

START = """
import re
import time
import urllib.request

import pointsman as serve
from pointsman import metrics

client = serve.start(http_options={"port": 0}, metrics_export_port=0)


def page():
    return urllib.request.urlopen(client.metrics_address).read().decode()


def value(name, **labels):
    lines = [line for line in page().splitlines() if line.startswith(name + "{")]
    lines = [line for line in lines if all(f'{key}="{value}"' in line for key, value in labels.items())]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
"""

SLEEPER = """
def f(request):
    time.sleep(1)


client.create_backend("f", f)
client.create_endpoint("f", backend="f")
handle = client.get_handle("f")
"""

CUSTOM = """
class MyBackendClass:
    def __init__(self):
        self.my_counter = metrics.Count(
            "my_counter",
            description=("The number of excellent requests to this backend."),
            tag_keys=("backend", ))
        self.my_counter.set_default_tags({
            "backend": serve.get_current_backend_tag()
        })

    def __call__(self, request):
        if "excellent" in request.query_params:
            self.my_counter.record(1)


client.create_backend("my_backend", MyBackendClass)
client.create_endpoint("my_endpoint", backend="my_backend", route="/my_endpoint")
"""


def test_average_latency_of_a_sleeper(tmp_path: Path) -> None:
    """`..._sum` by `..._count` says just over a second, as expected (MO1, EX13, EX14)."""
    look = """
began = time.monotonic()
for _ in range(3):
    handle.remote().result()
while value("serve_backend_processing_latency_ms_count", backend="f") < 3:  # the last is counted after its answer
    time.sleep(0.01)
total = value("serve_backend_processing_latency_ms_sum", backend="f")
assert 1000 <= total / 3 <= 1000 * (time.monotonic() - began) / 3, total
for name in ("serve_backend_request_counter", "serve_num_router_requests"):
    assert value(name) == 3, name
"""
    assert_succeeded(run_program(START + SLEEPER + look, tmp_path))


def test_a_counter_of_ones_own(tmp_path: Path) -> None:
    """Two excellent requests of three: the metric is there under its name, tagged as the example says (CM2)."""
    look = """
for query in ("?excellent", "", "?excellent=1"):
    urllib.request.urlopen(f"{client.http_address}/my_endpoint{query}").read()
assert value("my_counter", backend="my_backend") == 2, page()
"""
    assert_succeeded(run_program(START + CUSTOM + look, tmp_path))
