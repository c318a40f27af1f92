"""New models get more and more of the traffic; those that do harm go back by themselves, and users hardly notice.

    pip install '.[demo]'    # in a clone of Pointsman
    python examples/guarded_rollout.py

Three classifiers of handwritten digits want to replace an old one, one after the other, while a hundred users a second
send images. A minute after its first answer one of them begins to fail for 2 requests in 100, and another to take
longer; the third is sound. Each has a rollout. It is counted what users got. It takes five minutes.
"""

import itertools
import json
import random
import tempfile
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

import pointsman as serve
from pointsman.demo.digits import DigitClassifier, train

STEPS = (0.05, 0.25, 0.5, 1.0)  # shares of the traffic, one after the other
GATES = {"error_rate": {}, "latency": {"p99": 1.5, "burst_s": 5}, "health": {}}
USERS_PER_S = 100
CONNECTIONS = 8
SOUND_S = 60.0  # how long a bad model is a good one
SLOW_S = 0.03  # what a slow model takes on top, and a user notices


class FailsLater(DigitClassifier):
    """Fails for 2 requests in 100, once it has answered for a minute."""

    turns_at = None

    def __call__(self, request):
        if self.is_bad() and random.random() < 0.02:
            raise HTTPException(500, "a part of the model is gone")
        return super().__call__(request)

    def is_bad(self):
        if self.turns_at is None:
            self.turns_at = time.monotonic() + SOUND_S
        return time.monotonic() >= self.turns_at


class SlowsDown(FailsLater):
    """Takes longer, once it has answered for a minute."""

    def __call__(self, request):
        if self.is_bad():
            time.sleep(SLOW_S)
        return DigitClassifier.__call__(self, request)


CANDIDATES = {"fails": (FailsLater, 60), "slow": (SlowsDown, 60), "new": (DigitClassifier, 15)}  # seconds of a step


class Users:
    """Send images at fixed times, until they are told to stop, and count what they get."""

    def __init__(self, url, bodies):
        self.url, self.bodies = urlsplit(url), bodies
        self.got = Counter()
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._send_all) for _ in range(CONNECTIONS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def take(self):
        """What was counted since this was asked before: how often ``(backend, what)`` came."""
        with self._lock:
            taken, self.got = self.got, Counter()
        return taken

    def _send_all(self):
        connection = HTTPConnection(self.url.netloc, timeout=30)
        for number in self._numbers:
            due = self._began + number / USERS_PER_S
            if self._ended.wait(max(0.0, due - time.monotonic())):
                break
            connection.request("POST", self.url.path, self.bodies[number % len(self.bodies)])
            answer = connection.getresponse()
            answer.read()
            seconds = time.monotonic() - due
            what = "failed" if answer.status >= 500 else "slow" if seconds > SLOW_S else "well"
            with self._lock:
                self.got[answer.headers["x-serve-backend"], what] += 1
        connection.close()


def roll_out(client, users, tag, hold_s):
    """Start a rollout, show how it goes, and what users got of it."""
    users.take()
    client.start_rollout("digits", tag, steps=STEPS, hold_s=hold_s, gates=GATES)
    rollout = client.rollout("digits")
    while rollout["state"] == "running":
        gates = {name: gate for name, gate in rollout["gates"].items() if name != "health"}
        evidence = ", ".join(f"{name} {gate['e']:.2g} of {gate['needed']:.0f}" for name, gate in gates.items())
        print(f"  {rollout['weight']:.0%} to {tag}, {rollout['exposed']} requests; evidence: {evidence}", flush=True)
        try:
            rollout = client.wait_for_rollout("digits", timeout=10)
        except TimeoutError:
            rollout = client.rollout("digits")
    print(f"  {rollout['state']}: {rollout['reason']}")
    got = users.take()
    failed, slow, well = (got[tag, what] for what in ("failed", "slow", "well"))
    print(f"  users: {got.total()} answers, {failed + slow + well} of them by {tag}, ", end="")
    print(f"of which {failed} failed and {slow} were slow")


def main():
    with tempfile.TemporaryDirectory() as folder, serve.start(http_options={"port": 0}) as client:
        print("Training two models on half of the digits ...")
        trained = train(Path(folder))
        images, _ = trained.held_out
        bodies = [json.dumps({"image": image}).encode() for image in images]
        old, new = trained.paths["digits-linear"], trained.paths["digits-svm"]
        half_a_cpu = {"num_cpus": 0.5}
        client.create_backend("old", DigitClassifier, old, ray_actor_options=half_a_cpu)
        client.create_endpoint("digits", backend="old", route="/digits", methods=["POST"])
        with Users(f"{client.http_address}/digits", bodies) as users:
            for tag, (model, hold_s) in CANDIDATES.items():
                print(f"{tag}:")
                client.create_backend(tag, model, new, ray_actor_options=half_a_cpu)
                roll_out(client, users, tag, hold_s)
                if tag != "new":
                    client.delete_backend(tag)
        for change in client.traffic_history("digits"):
            print(f"version {change['version']:>3}  {change['change']}  {change['weights']}")


if __name__ == "__main__":
    main()
