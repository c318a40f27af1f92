"""The files of the console's page: whose they are, how large, and what can be told of them without a browser."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import re
from pathlib import Path

import pytest

import pointsman.console

CONSOLE = Path(pointsman.console.__file__).parent
PAGE = CONSOLE / "page"
MODULES = sorted((PAGE / "js").glob("*.js"))


def test_libraries_are_those_of_their_makers():
    """What the page loads from others is what ``make vendor`` has written, untouched, and their licences are there."""
    recorded = json.loads((CONSOLE / "vendored.json").read_text())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (PAGE / "vendor").iterdir()}
    assert found == recorded
    licences = (CONSOLE / "LICENSES").read_text()
    for name in ("preact", "htm", "@preact/signals", "@preact/signals-core"):
        assert re.search(rf"^{name} \d+\.\d+\.\d+$", licences, re.MULTILINE)


def test_the_page_is_small():
    """All files of the page together are sent as at most 100 KB, and are at most 200 KB as they are written (CR8)."""
    files = [path.read_bytes() for path in PAGE.rglob("*") if path.is_file()]
    assert sum(len(gzip.compress(data)) for data in files) <= 100 * 1024
    assert sum(map(len, files)) <= 200 * 1024


@pytest.mark.parametrize("path", [*MODULES, *sorted((PAGE / "vendor").glob("*.js"))], ids=lambda path: path.name)
def test_modules_import_what_is_there(path):
    """Each import is a relative path to a file, and a name that it has: nothing is built or fetched from afar (CR1)."""
    for names, target in re.findall(r'import\s*(?:\{([^}]*)\})?[^"\';{]*from\s*"([^"]+)"', path.read_text()):
        assert target.startswith("."), f"{path.name} imports {target!r}"
        file = (path.parent / target).resolve()
        assert file.is_file(), f"{path.name} imports {target!r}"
        if path in MODULES and file in MODULES:
            asked = {name.split(" as ")[0].strip() for name in names.split(",") if name.strip()}
            assert asked <= exports(file.read_text()), f"{path.name} imports names that {file.name} has not"
        if file.parent.name == "vendor" and path in MODULES:
            assert path.name == "lib.js", f"{path.name} imports {target!r} beside lib.js"


def exports(text: str) -> set[str]:
    found = set(re.findall(r"^export (?:async )?(?:const|let|function\*?|class) (\w+)", text, re.MULTILINE))
    for names in re.findall(r"^export \{([^}]*)\}", text, re.MULTILINE):
        found |= {name.split(" as ")[-1].strip() for name in names.split(",") if name.strip()}
    return found


@pytest.mark.parametrize("path", [PAGE / "index.html", *MODULES], ids=lambda path: path.name)
def test_nothing_becomes_markup(path):
    """No text is made into elements or code, so that a name of a user stays text (CR6)."""
    text = path.read_text()
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert risky not in text
    assert "http://" not in text
    assert "https://" not in text
    if path.suffix == ".html":
        assert " style=" not in text
        assert not re.findall(r"<script(?![^>]* src=)|<style| on\w+=", text)


def colours(theme: int) -> dict[str, str]:
    """Of the light theme (0) or the dark one (1)."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", (PAGE / "style.css").read_text())
    return {name: both[theme] for name, *both in pairs}


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_in_both_themes(theme):
    """Text has a contrast of 4.5 on what it lies on, and lines of fields and bars one of 3 (CR7)."""
    colour = colours(theme)
    pairs = [
        *itertools.product(("text", "dim", "accent", "bad"), ("bg", "card", "sunk")),
        *((name, f"{name}-bg") for name in ("ok", "warn", "bad")),
        *(("text", f"{name}-bg") for name in ("ok", "warn", "bad")),
        ("accent", "wash"),
        ("on-accent", "accent"),
    ]
    low = {pair: round(c, 2) for pair in pairs if (c := contrast(colour[pair[0]], colour[pair[1]])) < 4.5}
    assert low == {}
    graphics = [("line-strong", "card"), *((f"s{i}", "card") for i in range(6))]
    low = {pair: round(c, 2) for pair in graphics if (c := contrast(colour[pair[0]], colour[pair[1]])) < 3}
    assert low == {}
