"""Fifty models behind one route: two replicas hold the few that are asked for, and load the others when they are.

    pip install '.[demo]' django    # in a clone of Pointsman
    python examples/many_models.py

Django ships its messages in many languages. For each of fifty a model is trained, with scikit-learn, that finds the
English message for a text, even if there is a mistake in it. A request says by a header which model it wants. Some are
asked for often and most seldom (Zipf's law: the k-th one k times as seldom as the first). Each replica has room for
twelve models, and a request goes where its model is held. docs/examples/many-models.md explains the program.
"""

import bisect
import itertools
import json
import random
import re
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import django
import joblib

import pointsman as serve

LANGUAGES = 50
ROOM = 12
REQUESTS = 3000
CALLERS = 4
MESSAGE = re.compile(r'^msgid "(.{9,})"\nmsgstr "(.{9,})"$', re.MULTILINE)


class Translator:
    """Finds the English message for a text in the language that a request names."""

    def __init__(self, folder):
        self.files = {path.stem: path for path in Path(folder).glob("*.joblib")}
        self.loads = 0

    @serve.multiplexed(max_models=ROOM)
    def model(self, language):
        self.loads += 1
        return joblib.load(self.files[language])  # clients choose ids, so no path is made of one

    def __call__(self, request):
        letters, known, english = self.model(serve.get_multiplexed_model_id())
        text = letters.transform([request.body().decode()])
        nearest = (known @ text.T).argmax()
        return {"english": english[nearest], "replica": serve.get_current_replica_tag(), "loads": self.loads}


def messages():
    """Django's messages: by language, pairs of the English text and its translation."""
    found = {}
    for path in sorted(Path(django.__file__).parent.glob("conf/locale/*/LC_MESSAGES/django.po")):
        pairs = MESSAGE.findall(path.read_text())
        if len(pairs) > 100 and len(found) < LANGUAGES:
            found[path.parts[-3]] = pairs
    return found


def train(folder, messages):
    """Save a model for each language: how its letters follow each other in each message."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    for language, pairs in messages.items():
        english, texts = zip(*pairs, strict=True)
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3))
        joblib.dump((letters, letters.fit_transform(texts), english), folder / f"{language}.joblib")


def questions(messages, chance):
    """Requests, without end: a language, a text of it with a letter too few, and its English text."""
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(messages) + 1)))
    while True:
        language = list(messages)[bisect.bisect(weights, chance.random() * weights[-1])]
        english, text = chance.choice(messages[language])
        lost = chance.randrange(len(text))
        yield language, text[:lost] + text[lost + 1 :], english


def ask(address, questions):
    """One caller: sends these requests, one after the other; returns the answers."""
    connection, answers = HTTPConnection(urlsplit(address).netloc), []
    for language, text, _ in questions:
        connection.request("POST", "/english", text.encode(), {"serve_multiplexed_model_id": language})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        answers.append(json.load(response))
    connection.close()
    return answers


def main():
    translations = messages()
    with tempfile.TemporaryDirectory() as folder, serve.start(http_options={"port": 0}) as client:
        print(f"Training {len(translations)} models ...")
        train(Path(folder), translations)
        two = {"num_replicas": 2}
        client.deploy("translator", Translator, folder, route="/english", methods=["POST"], config=two)

        asked = list(itertools.islice(questions(translations, random.Random(1)), REQUESTS))
        shares = [asked[first::CALLERS] for first in range(CALLERS)]
        with ThreadPoolExecutor(CALLERS) as callers:
            answered = callers.map(ask, [client.http_address] * CALLERS, shares)
        pairs = [pair for both in zip(shares, answered, strict=True) for pair in zip(*both, strict=True)]

        right = sum(answer["english"] == english for (_, _, english), answer in pairs)
        loads = Counter()
        for _, answer in pairs:
            loads[answer["replica"]] = max(loads[answer["replica"]], answer["loads"])
        (language, text, _), answer = pairs[0]
        print(f"for example, {language}: {text} -> {answer['english']}")
        print(f"{REQUESTS} requests for {len({one[0] for one in asked})} models: {right / REQUESTS:.1%} right")
        print(f"{loads.total()} loads, so {1 - loads.total() / REQUESTS:.0%} found their model loaded")
        for replica, models in sorted(client.models("translator").items()):
            print(f"{replica} holds {', '.join(sorted(model['id'] for model in models))}")


if __name__ == "__main__":
    main()
