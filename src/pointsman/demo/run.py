"""``pointsman demo``: two real models behind one endpoint, from training to a measured table.

Called by the command line. Nothing is canned: the models are trained, images that were held out of the training are
sent over HTTP, and every figure is computed from the answers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pointsman.client import Client
from pointsman.client.capacity import local_capacity
from pointsman.client.start import start_instance
from pointsman.config import HTTPOptions
from pointsman.demo.load import Answer, post_all
from pointsman.engine.local.folder import InstanceFolder
from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from pointsman.demo.digits import HeldOut, Image, Trained

NEEDED = ("joblib", "numpy", "sklearn")
ROUTE = "/digits"
REPLICAS = 2
#: Resources of each replica: the four of them need no more than two CPUs.
SHARE = {"num_cpus": 0.5}
CONNECTIONS = 4
#: Name of the instance of ``--keep``, by which ``pointsman status`` finds it.
KEPT_NAME = "demo"


def run_demo(console: Console, *, port: int, keep: bool) -> None:
    """Train, serve, measure, print.

    Args:
        port: HTTP port, 0 for any free one.
        keep: whether to keep serving until Ctrl-C, or until another process ends the instance.

    Raises:
        ServeException: scikit-learn is missing, or a request failed.
        OSError: the port cannot be bound.
    """
    _check_installed()
    with tempfile.TemporaryDirectory(prefix="pointsman-demo-") as folder, _start(port, keep) as client:
        # Imported after the instance has started: a port in use shows at once, the import takes seconds.
        from pointsman.demo.digits import train

        console.print("Training a linear classifier and a support vector machine on half of the digits ...")
        trained = train(Path(folder))
        traffic = _deploy(client, trained, console)
        url = f"{client.http_address}{ROUTE}"
        answers = _send(url, trained.held_out.images, console)
        console.print(_table(_score(answers, trained.held_out.digits), traffic))
        _print_curl(url, trained.held_out, console, keep=keep)
        if keep:
            _keep_serving(console)


class Score(NamedTuple):
    """Results of one backend: for each answer whether it was right, and how many seconds it took."""

    right: list[bool]
    seconds: list[float]


def _check_installed() -> None:
    missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise ServeException(f"the demo needs {', '.join(missing)}; run in a clone of Pointsman: pip install '.[demo]'")


def _start(port: int, keep: bool) -> Client:
    return start_instance(
        name=KEPT_NAME if keep else "",
        bound=True,
        http=HTTPOptions(port=port),
        state_dir=None,
        capacity=local_capacity(),
    )


def _deploy(client: Client, trained: Trained, console: Console) -> dict[str, float]:
    """Serve every model behind one endpoint that splits its traffic equally; returns the weights."""
    from pointsman.demo.digits import DigitClassifier

    console.print(f"Starting {REPLICAS} replicas of each ...")
    for tag, path in trained.paths.items():
        client.create_backend(tag, DigitClassifier, path, ray_actor_options=SHARE, config={"num_replicas": REPLICAS})
    traffic = {tag: 1 / len(trained.paths) for tag in trained.paths}
    client.create_endpoint("digits", backend=next(iter(traffic)), route=ROUTE, methods=["POST"])
    client.set_traffic("digits", traffic)
    return traffic


def _send(url: str, images: Sequence[Image], console: Console) -> list[Answer]:
    targets = [(url, _body(image)) for image in images]
    began = time.perf_counter()
    # Closing the generator stops the senders at once after a Ctrl-C.
    with contextlib.closing(post_all(targets, connections=CONNECTIONS)) as incoming:
        description = f"Sending {len(targets)} held-out images"
        answers = list(track(incoming, total=len(targets), description=description, console=console))
    seconds = time.perf_counter() - began
    rate = len(answers) / seconds
    console.print(f"{len(answers)} answers in {seconds:.1f} s ({rate:.0f}/s) over {CONNECTIONS} connections to {url}\n")
    return answers


def _body(image: Image) -> bytes:
    return json.dumps({"image": image}, separators=(",", ":")).encode()


def _score(answers: Sequence[Answer], digits: Sequence[int]) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    for answer, digit in zip(answers, digits, strict=True):
        score = scores.setdefault(answer.value["backend"], Score([], []))
        score.right.append(answer.value["digit"] == digit)
        score.seconds.append(answer.seconds)
    return scores


def _table(scores: Mapping[str, Score], traffic: Mapping[str, float]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("backend", no_wrap=True)
    for column in ("requests", "asked", "measured", "accuracy", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right", no_wrap=True)
    total = sum(len(score.right) for score in scores.values())
    for tag, asked in traffic.items():
        score = scores.get(tag, Score([], []))
        requests = len(score.right)
        figures = ["-"] * 3
        if requests:
            accuracy = 100 * sum(score.right) / requests
            figures = [f"{accuracy:.1f} %", *(f"{1000 * _quantile(score.seconds, q):.1f}" for q in (0.5, 0.99))]
        share = f"{100 * requests / total:.1f} %"
        table.add_row(tag, str(requests), f"{100 * asked:.1f} %", share, *figures)
    return table


def _quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def _print_curl(url: str, held_out: HeldOut, console: Console, *, keep: bool) -> None:
    image, digit = held_out.images[0], held_out.digits[0]
    lead = "Try it by hand" if keep else "Try it by hand while `pointsman demo --keep` serves"
    console.print(f"{lead} (this image shows a {digit}):\n", highlight=False)
    # Not wrapped and without colour codes, so that it can be copied.
    console.out(f"curl -s {url} -H 'content-type: application/json' -d '{_body(image).decode()}'\n", highlight=False)


def _keep_serving(console: Console) -> None:
    console.print(f"Serving on. Ctrl-C ends it; elsewhere: pointsman status --name {KEPT_NAME}", highlight=False)
    try:
        InstanceFolder.of(KEPT_NAME).wait_for_end()
    except KeyboardInterrupt:
        console.print("Shutting down.")
