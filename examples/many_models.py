"""Fifty models behind one route: two replicas hold the few that are asked for, and load the others when they are.

    pip install '.[demo]'    # in a clone of Pointsman
    python examples/many_models.py

Fifty customers have names of their own for the ten digits, so each has a small scikit-learn model that was trained with
these. A request says by a header whose model it wants. Some customers ask often and most seldom (Zipf's law: the k-th
one k times as seldom as the first). Each replica has room for twelve models; a request goes where its model is held.
"""

import bisect
import itertools
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import joblib
import numpy as np

import pointsman as serve

CUSTOMERS = [f"customer-{number:02}" for number in range(50)]
ROOM = 12
REQUESTS = 3000
CALLERS = 4


class Digits:
    """Says by which name a customer calls the digit in an image."""

    def __init__(self, folder):
        self.files = {path.stem: path for path in Path(folder).glob("*.joblib")}
        self.loads = 0

    @serve.multiplexed(max_models=ROOM)
    def model(self, customer):
        self.loads += 1
        return joblib.load(self.files[customer])  # clients choose ids, so no path is made of one

    def __call__(self, request):
        model = self.model(serve.get_multiplexed_model_id())
        name = int(model.predict(np.asarray([request.json()]))[0])
        return {"name": name, "replica": serve.get_current_replica_tag(), "loads": self.loads}


def train(folder):
    """Save a model for each customer; returns the names by customer, and images with their digits."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import train_test_split

    digits, chance = load_digits(), random.Random(0)
    seen, images, seen_digits, shown = train_test_split(digits.data, digits.target, test_size=0.5, random_state=0)
    names = {customer: chance.sample(range(100), 10) for customer in CUSTOMERS}
    for customer in CUSTOMERS:
        model = RidgeClassifier().fit(seen, [names[customer][digit] for digit in seen_digits])
        joblib.dump(model, folder / f"{customer}.joblib")
    return names, list(zip(images.tolist(), shown.tolist(), strict=True))


def zipf(chance):
    """Customers, without end."""
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(CUSTOMERS) + 1)))
    while True:
        yield CUSTOMERS[bisect.bisect(weights, chance.random() * weights[-1])]


def call(address, wanted):
    """One caller: ask for these customers and images, one after the other; returns answers and seconds."""
    connection, answers = HTTPConnection(urlsplit(address).netloc), []
    for customer, image in wanted:
        began = time.perf_counter()
        connection.request("POST", "/digits", json.dumps(image), {"serve_multiplexed_model_id": customer})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        answers.append((json.load(response), time.perf_counter() - began))
    connection.close()
    return answers


def main():
    with tempfile.TemporaryDirectory() as folder, serve.start(http_options={"port": 0}) as client:
        print(f"Training {len(CUSTOMERS)} models ...")
        names, images = train(Path(folder))
        few = {"num_replicas": 2}
        client.deploy("digits", Digits, folder, route="/digits", methods=["POST"], config=few)

        chance = random.Random(1)
        wanted = [(customer, *chance.choice(images)) for customer in itertools.islice(zipf(chance), REQUESTS)]
        shares = [wanted[first::CALLERS] for first in range(CALLERS)]
        with ThreadPoolExecutor(CALLERS) as callers:
            results = callers.map(call, [client.http_address] * CALLERS, [[one[:2] for one in s] for s in shares])
        right, loads, seconds = 0, Counter(), []
        for share, answers in zip(shares, results, strict=True):
            for (customer, _, digit), (answer, took) in zip(share, answers, strict=True):
                right += answer["name"] == names[customer][digit]
                loads[answer["replica"]] = max(loads[answer["replica"]], answer["loads"])
                seconds.append(took)

        print(f"{REQUESTS} requests for {len({one[0] for one in wanted})} models: {right / REQUESTS:.1%} right")
        print(f"{sum(loads.values())} loads, so {1 - sum(loads.values()) / REQUESTS:.0%} found their model loaded")
        slow = statistics.quantiles(seconds, n=100)[98]
        print(f"half took {1000 * statistics.median(seconds):.1f} ms, and 99 of 100 at most {1000 * slow:.1f} ms")
        for replica, models in sorted(client.models("digits").items()):
            print(f"{replica} holds {', '.join(sorted(model['id'] for model in models))}")


if __name__ == "__main__":
    main()
