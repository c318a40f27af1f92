"""Rules about the source that no linter knows."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import pointsman

SOURCE = Path(pointsman.__file__).parent
REPOSITORY = Path(__file__).parents[2]
MODULES = sorted(SOURCE.rglob("*.py"))

MAY_RUN_CODE = {
    "usercode/byvalue.py",  # makes pickles, and loads none
    "usercode/classids.py",  # ids of classes in pickles
    "config/backend.py",  # user_config, pickled by the operator's client
    "configfile/fields.py",  # user_config, where that is nothing but values of built-in types
    "ingress/__main__.py",  # middlewares, shipped by the operator
    "wire/pickling.py",  # arguments, values and exceptions of handle calls, between authenticated processes
    "replica/target.py",  # user_config
    "comparer/subject.py",  # answers of handles, read without any class
    "controller/scaling/policyprocess.py",  # the state of a user's policy, in the process that has made it
    "usercode/packing.py",  # user code
}
CODE_RUNNERS = {"pickle", "cloudpickle", "marshal", "shelve", "dill", "joblib"}
MAY_ASK_THE_WALL_CLOCK = {
    "doctor/machine.py",  # whether it is set, and ages of files
    "console/sampler.py",  # what people read on a time axis
    "engine/local/folder.py",  # ages of files
    "environments/requirements.py",
    "routing/refusals.py",  # when another machine expects a replica
}


def names_used(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            used.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            used.add(f"{node.func.id}()")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{node.value.id}.{node.attr}")
    return used


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_decoders_that_run_code(path):
    """What can run code stands only in the modules that say why (S6, S7)."""
    relative = str(path.relative_to(SOURCE))
    used = names_used(path)
    runners = used & CODE_RUNNERS
    if relative.startswith("demo/"):
        runners -= {"joblib"}  # the demo loads the models that it has just saved
    assert not runners or relative in MAY_RUN_CODE, f"{relative} imports {runners}"
    assert not used & {"eval()", "exec()", "os.system"}
    if relative not in MAY_ASK_THE_WALL_CLOCK:
        assert "time.time" not in used, "deadlines are monotonic (F32)"


def test_modules_stay_small():
    """A reader can take in each module: none is over 400 lines."""
    too_long = {
        str(path.relative_to(SOURCE)): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not too_long


CODE = r"[A-Z]{1,2}[0-9]{1,2}[a-z]?"
CITATION = re.compile(rf"\(({CODE}(?:(?:, | and | to |-){CODE})*)\)")


def test_every_rule_that_is_cited_is_explained():
    """A reader finds in docs/rules.md what each code means that a test, a comment or a page names."""
    rows = re.findall(rf"^\| ({CODE}) \|", (REPOSITORY / "docs/rules.md").read_text(), re.MULTILINE)
    explained = set(rows)
    assert len(rows) == len(explained), "a code is explained twice"
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    unknown = {}
    for path in [*MODULES, *(REPOSITORY / "tests").rglob("*.py"), *pages]:
        for citation in CITATION.findall(path.read_text()):
            for code in re.findall(CODE, citation):
                if code not in explained and code.rstrip("ab") not in explained:
                    unknown[code] = path.name
    assert len(explained) > 250
    assert not unknown


DECISIONS = REPOSITORY / "docs/decisions"
INDEXED = re.compile(r"^\| \[(\d{4})\]\((\S+)\) \| (.+) \| .+ \| ([a-z ]+)(?:: .+)? \|$", re.MULTILINE)
DECISION = re.compile(r"# (\d{4}): (.+)\n(?:\nStatus: ((?:partly )?superseded)\. )?")


def test_every_decision_is_in_the_index():
    """A reader finds each decision in the index, by number and title, and whether it still holds; and nothing else."""
    index = (DECISIONS / "README.md").read_text()
    found, used = {}, []
    for path in DECISIONS.glob("[0-9]*.md"):
        number, title, status = DECISION.match(path.read_text()).groups()
        assert path.name.startswith(f"{number}-")
        found[path.name] = (number, title, status or "holds")
        used.append(int(number))
    assert {file: (number, title, status) for number, file, title, status in INDEXED.findall(index)} == found
    assert len(used) == len(set(used)), "two decisions have one number"
    never_used = {int(number) for number in re.findall(r"\d{4}", re.search(r"numbers (.*) were never used", index)[1])}
    assert {*range(1, max(used) + 1)} - {*used} == never_used


def test_decisions_that_are_cited_are_there():
    """Where a comment or a page names a decision by its number, that is one of them."""
    there = {path.name[:4] for path in DECISIONS.glob("[0-9]*.md")}
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    for path in [*MODULES, *(REPOSITORY / "tests").rglob("*.py"), *pages]:
        cited = re.findall(r"(?i:\bdecisions? |\()(0\d{3})\b", path.read_text())
        assert set(cited) <= there, path


CODE_AND_PAGES = [
    *("src/**/*.py", "tests/**/*.py", "benchmarks/*.py", "benchmarks/servers/*.py", "examples/*.py"),
    *("*.md", "docs/**/*.md", "Makefile", "pyproject.toml"),
]
PAGE = re.compile(r"[\w./-]*\b[\w-]+\.md\b")
ELSEWHERE = re.compile(r"\b(?:spec|reliability|design|redesign|edge|threat model)[ ,]+\d", re.IGNORECASE)


def test_no_document_is_cited_that_the_repository_does_not_hold():
    """A reader who follows a reference to a page, or to a numbered section of one, finds it."""
    held = {path.name for path in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]}
    missing = []
    for path in {path for pattern in CODE_AND_PAGES for path in REPOSITORY.glob(pattern)}:
        text = path.read_text()
        cited = [page for page in PAGE.findall(text) if Path(page).name not in held] + ELSEWHERE.findall(text)
        missing += [f"{path.relative_to(REPOSITORY)}: {citation}" for citation in cited]
    assert not missing
