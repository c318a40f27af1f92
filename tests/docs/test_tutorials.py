"""The tutorials, each from its first line to its last, as a newcomer goes through it in an empty folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.pages import go_through
from tests.docs.test_examples import ROOT
from tests.properties import PROFILE

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed, and the pages use it")

PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
NEEDS = {
    "scikit-learn": ["sklearn"],
    "onnx": ["onnxruntime", "skl2onnx"],
    "images": ["PIL", "onnxruntime"],
    "ray-cluster": ["ray"],
}

LONG = {"ray-cluster": "takes a minute, and a cluster: make test-long has it; what it shows is proven in tests/cluster"}
"""Pages that the gate leaves out, and why."""


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_whoever_follows_a_tutorial_sees_what_it_shows(page: Path, tmp_path: Path) -> None:
    """Each file is saved, each command typed as it is printed, and what they print is what the page shows.

    Only ports are changed here.
    """
    if page.stem in LONG and PROFILE == "gate":
        pytest.skip(LONG[page.stem])
    for module in NEEDS.get(page.stem, []):
        pytest.importorskip(module, reason=f"{module} is not installed, and the tutorial uses it")
    go_through(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_tutorial_is_short(page: Path) -> None:
    """It is read and done in ten minutes: at most 200 lines."""
    assert len(page.read_text().splitlines()) <= 200


SMALL = """
Save this as `a.py`:

```python
print("one two", 3)
```

```console
$ cd . && A=b
$ echo $A
b
$ python a.py
one ... 3
```

<!-- figures vary -->
```console
$ python a.py
one  two 1.5
```

In `a.py`:

```diff
-print("one two", 3)
+print("four")
```

```console
$ python a.py
{last}
```
"""


@pytest.mark.parametrize(("last", "wrong"), [("four", False), ("five", True)])
def test_what_a_page_shows_is_compared(last: str, wrong: bool, tmp_path: Path) -> None:
    """A page that shows something else than is printed fails, and the failure names the line."""
    page = tmp_path / "run.md"
    page.write_text(SMALL.format(last=last))
    folder = tmp_path / "folder"
    folder.mkdir()
    if wrong:
        with pytest.raises(AssertionError, match=r"run\.md:\d+: \$ python a\.py\nprinted\nfour"):
            go_through(page, folder)
    else:
        go_through(page, folder)
