"""docs/architecture.md, and what it promises of imports, held against the source."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pointsman

SOURCE = Path(pointsman.__file__).parent
REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "architecture.md"
MODULES = {
    str(path.relative_to(SOURCE).with_suffix("")): path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"
}
PACKAGES = {str(path.parent.relative_to(SOURCE)) for path in SOURCE.rglob("__init__.py")} - {"."}

IMPORT_BY_NAME = {
    "__init__": "public names, on first use (decision 0006)",
    "config/__init__": "public names, on first use: who only reads needs no pydantic",
    "engine/process": "what an actor hosts",
    "testing/__init__": "test tools, on first use: a test of a model needs no simulator",
    "usercode/packing": "modules of users",
    "running/trial": "modules of users",
}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Each module is parsed once for all tests here."""
    return ast.parse(path.read_text())


def section(number: int) -> str:
    return re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[number]


def rooms() -> dict[str, set[str]]:
    """Room of the map -> the words of its row: a folder's modules, or modules without a folder."""
    found: dict[str, set[str]] = {}
    for line in section(6).splitlines():
        if line.startswith("| ") and line[2].isdigit():
            _, room, what, _ = (cell.strip() for cell in line.strip("| ").split("|"))
            for name in re.findall(r"`([^`]+)`", room):
                found[name.rstrip("/")] = set(re.findall(r"\w+", what))
    return found


def test_every_module_is_on_the_map():
    """Whoever looks for a module finds its room on the page."""
    there = rooms()
    missing = []
    for name in MODULES:
        folder, _, module = name.rpartition("/")
        if not (module in there.get(folder, ()) if folder else name in there):
            missing.append(name)
    assert missing == []


def test_the_map_shows_nothing_that_is_not_there():
    """A room that is on the page exists."""
    assert [room for room in rooms() if room not in MODULES and room not in PACKAGES] == []


def test_a_package_names_the_modules_that_it_has():
    """Where a package's docstring lists its modules, in lines of names and what they are, each of them is there."""
    wrong = []
    for package in sorted(PACKAGES):
        text = ast.get_docstring(tree_of(SOURCE / package / "__init__.py")) or ""
        for line in text.splitlines():
            listed = re.fullmatch(r"([a-z_]+(?:, [a-z_]+)*) {2,}\S.*", line)
            for name in listed[1].split(", ") if listed else ():
                if f"{package}/{name}" not in MODULES and f"{package}/{name}" not in PACKAGES:
                    wrong.append(f"{package}: {name}")
    assert wrong == []


def test_the_walks_pass_by_modules_that_there_are():
    """The walks through a request, a change and a replica name modules and folders of the source."""
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)+)`", "".join(section(number) for number in (3, 4, 5))))
    assert len(named) > 40
    assert sorted(named - set(MODULES)) == []


def test_the_floors_are_those_of_the_linter():
    """The page and the contract of import-linter have the same rooms on the same floors."""
    contract = re.search(r"exhaustive = true\nlayers = \[\n(.*?)\]", (REPOSITORY / "pyproject.toml").read_text(), re.S)
    assert contract is not None
    floors = [set(re.findall(r"\w+", row)) for row in contract[1].splitlines()]
    shown: dict[int, set[str]] = {}
    for line in section(6).splitlines():
        if line.startswith("| ") and line[2].isdigit():
            number, room = (cell.strip() for cell in line.strip("| ").split("|")[:2])
            names = {name.rstrip("/").partition("/")[0] for name in re.findall(r"`([^`]+)`", room)}
            shown.setdefault(int(number), set()).update(names)
    assert [shown[number] for number in sorted(shown, reverse=True)] == floors


def imports_by_name(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield ast.unparse(node)


def test_modules_of_ours_are_imported_by_a_string_in_one_place():
    """The linter sees every import but one: what an actor hosts is found by its name in ``engine/process``."""
    by_name = {
        str(path.relative_to(SOURCE).with_suffix("")): list(imports_by_name(tree_of(path)))
        for path in SOURCE.rglob("*.py")
    }
    assert {name for name, found in by_name.items() if found} == set(IMPORT_BY_NAME)


def graph() -> dict[str, set[str]]:
    """Module -> what it imports, also inside functions and for type checkers only."""
    names = {name: name.replace("/", ".") for name in MODULES} | {p: p.replace("/", ".") for p in PACKAGES}
    known = set(names.values())
    found: dict[str, set[str]] = {}
    for name, dotted in names.items():
        path = MODULES.get(name, SOURCE / name / "__init__.py")
        found[dotted] = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pointsman"):
                module = (node.module or "").removeprefix("pointsman").lstrip(".")
                for alias in node.names:
                    target = f"{module}.{alias.name}".lstrip(".")
                    found[dotted].add(target if target in known else module)
    return {name: {target for target in targets if target in known} for name, targets in found.items()}


def test_no_module_imports_itself_by_way_of_others():
    """There is no circle of imports, not even one that only type checkers see."""
    left = graph()
    while True:
        leaves = {name for name, targets in left.items() if not targets & left.keys() - {name}}
        if not leaves:
            break
        for name in leaves:
            del left[name]
    assert sorted(left) == []


def test_the_supervisor_has_no_loop() -> None:
    """The root process of an instance starts with few imports, since all others wait for it."""
    look = "import sys, pointsman.engine.local.supervisor; print(*{'asyncio', 'pydantic', 'sqlite3'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_house_stays_small_enough_to_know():
    """At most 16 modules lie on top, and fewer than one in 25 is shorter than 60 lines."""
    assert len([name for name in MODULES if "/" not in name]) <= 16
    short = sorted(name for name, path in MODULES.items() if len(path.read_text().splitlines()) < 60)
    assert len(short) * 25 < len(MODULES), short


def test_functions_are_short():
    """Nine functions of ten have at most 20 lines."""
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    assert lengths[int(len(lengths) * 0.9)] <= 20


def test_the_page_is_short():
    """The page is read in one sitting."""
    assert len(PAGE.read_text().splitlines()) <= 220
