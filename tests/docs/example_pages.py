"""The pages of the examples, and what they say that the examples print."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"ocr_pipeline": "ocr", "speech": "speech", "many_models": "many-models"}
"""By example, the page that explains it."""
CONSOLE = re.compile(r"^```console\n\$ (.*)\n((?:.*\n)*?)```$", re.MULTILINE)


def page_of(example: str) -> str:
    return (ROOT / "docs" / "examples" / f"{PAGES[example]}.md").read_text()


def printed_on_page(example: str) -> list[str]:
    """The lines that an example prints, as its page shows them."""
    shown = dict(CONSOLE.findall(page_of(example)))
    return shown[f"python examples/{example}.py"].splitlines()
