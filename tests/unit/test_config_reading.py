"""A configuration file becomes plain values, each with its place, whatever stands in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.configfile.jsontree import read_json
from pointsman.configfile.problems import BadFileError
from pointsman.configfile.reading import MAX_FILE, parse, read_document
from pointsman.configfile.tree import MAX_DEPTH, TextError, Tree, escaped, interpolate
from pointsman.configfile.yamltree import read_yaml, write_yaml
from tests.unit.configuring import EXAMPLE, HEAD, lines_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(text: str, suffix: str = ".yaml") -> Tree:
    return parse(f"shop{suffix}", text.encode(), suffix)


def faults(text: str, suffix: str = ".yaml") -> list[str]:
    with pytest.raises(BadFileError) as caught:
        read(text, suffix)
    return [str(problem) for problem in caught.value.problems]


def test_yaml_toml_and_json_say_the_same():
    """The suffix of a file says what it is written in; the values are the same (CF1)."""
    wanted = {"a": {"b": [1, 2.5, "x", True]}, "c": None}
    assert read("a:\n  b: [1, 2.5, x, true]\nc:\n").value == wanted
    assert read(json.dumps(wanted), ".json").value == wanted
    assert read('[a]\nb = [1, 2.5, "x", true]\n', ".toml").value == {"a": wanted["a"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("012", 12), ("0o14", 12), ("0x1F", 31), ("1_000", "1_000"),
        ("1:30", "1:30"), ("2026-11-28", "2026-11-28"), ("~", None), ("", None), ("null", None), ("TRUE", True),
        ("1e3", 1000.0), (".5", 0.5), ("-7", -7), ("'7'", "7"), ('"true"', "true"), ("| \n  x\n", "x\n"),
        ("tRue", "tRue"),
    ],
)  # fmt: skip
def test_words_mean_what_yaml_1_2_says(text, value):
    """``yes`` is a text and ``012`` is twelve, as in YAML 1.2; dates are texts (CF1)."""
    assert read(f"a: {text}").value == {"a": value}


def test_every_value_has_its_place():
    """Problems can name line and column, of names and of values, in YAML and JSON (CF2)."""
    for tree in (read("a:\n  - x: 1\n    yy: [2, 3]\n"), read('{"a":\n [\n{"x": 1, "yy": [2, 3]}]}', ".json")):
        assert tree.value == {"a": [{"x": 1, "yy": [2, 3]}]}
    yaml = read("a:\n  - x: 1\n    yy: [2, 3]\n")
    assert yaml.place(("a", 0, "yy", 1)) == (3, 13)
    assert yaml.place(("a", 0, "yy"), of_name=True) == (3, 5)
    assert yaml.place(("a", 0, "missing")) == (2, 5)
    assert read('{"a":\n [\n{"x": 1, "yy": [2, 3]}]}', ".json").place(("a", 0, "yy", 1)) == (3, 20)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "shop.yaml:3:1: field 'a' stands here a second time"),
        ("a: !!python/name:os.system x", "shop.yaml:1:4: the tag"),
        ("a: !ruby/object x", "shop.yaml:1:4: the tag"),
        ("a: !!str 5", "shop.yaml:1:4: the tag"),
        ("a: [1, 2", "shop.yaml:1:9: it is no YAML: "),
        ("a: 1\n---\nb: 2\n", "shop.yaml:2:1: a second document begins here"),
        ("1: x", "shop.yaml:1:1: the name 1 is no text; write it in quotes"),
        ("? [a]\n: x", "shop.yaml:1:3: the name a list is no text"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "shop.yaml:3:3: '<<' merges nothing in YAML 1.2"),
        ("a: &x [*x]", "shop.yaml:1:4: it contains itself"),
        ("a: *x", "shop.yaml:1:4: "),
        ("a: .nan", "shop.yaml:1:4: nan is no number that a field can have"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "shop.yaml:1:"),
        ('a: "\\uD800"', "shop.yaml:1:4: the text has half a character"),
        ("a: " + "9" * 2000, "shop.yaml:1:4: a number has more than"),
        ("a: \t1\n\tb: 2", "shop.yaml:"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text, line):
    """What is wrong with the text of a file is said with its place: tags, names twice, aliases in a ring (CF2)."""
    assert faults(text)[0].startswith(line)


def test_aliases_stand_for_their_values_and_cannot_make_a_large_file_of_a_small_one():
    """An anchor can be used again; a small file that would grow to billions of values is refused (CF2)."""
    assert read("a: &x {b: [1]}\nc: *x\n").value == {"a": {"b": [1]}, "c": {"b": [1]}}
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert "more than 100000 values" in faults(bomb)[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a": 1, "a": 2}', "shop.json:1:10: field 'a' stands here a second time"),
        ('{"a": 1,\n "b": }', "shop.json:2:7: a JSON value is expected here"),
        ('{"a": 1', "shop.json:1:8: ',' or '}' is expected here"),
        ("[1 2]", "shop.json:1:4: ',' or ']' is expected here"),
        ("{a: 1}", "shop.json:1:2: a name in double quotes is expected here"),
        ('{"a" 1}', "shop.json:1:6: ':' is expected here"),
        ('{"a": NaN}', "shop.json:1:7: a JSON value is expected here"),
        ('{"a": "x\ny"}', "shop.json:1:"),
        ("{} {}", "shop.json:1:4: something stands behind the end"),
        ("", "shop.json:1:1: the file ends before"),
        ("[" * 100, "shop.json:1:"),
    ],
)  # fmt: skip
def test_json_that_is_refused(text, line):
    """JSON is read strictly, and its mistakes have their place (CF2)."""
    assert faults(text, ".json")[0].startswith(line)


@given(VALUES)
def test_json_is_read_as_by_python(value):
    """Our reader of JSON, which keeps places, finds what that of Python finds (CF1)."""
    for text in (json.dumps(value), json.dumps(value, indent="\t", ensure_ascii=False)):
        assert read_json(text).value == json.loads(text)


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \n\\u', max_size=30))
def test_broken_json_is_refused_where_python_refuses_it(text):
    """Whatever stands in a file, it is read or refused in a sentence, and nothing else happens (CF2)."""
    try:
        wanted = json.loads(text, object_pairs_hook=_without_duplicates)
    except ValueError:
        with pytest.raises(TextError):
            read_json(text)
    else:
        assert repr(read_json(text).value) == repr(wanted)


def _without_duplicates(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name stands there twice")
    return dict(pairs)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_is_written_reads_back(value):
    """An exported file is read as what was exported, whatever texts are in it (CF13)."""
    assert repr(read_yaml(write_yaml(value)).value) == repr(value)


@given(st.text(alphabet="ab:-#?[]{}&*!|>'\"%@`, \n\t$\\", max_size=24))
def test_broken_yaml_is_refused_in_a_sentence(text):
    """Whatever stands in a file, it is read or refused in a sentence, and nothing else happens (CF2)."""
    try:
        read(text)
    except BadFileError as error:
        found = error.problems
    else:
        found = []
    assert all(problem.file == "shop.yaml" for problem in found)


def test_toml_that_is_refused():
    """TOML has no places, but for what is no TOML at all; dates are refused, since no field has one (CF2)."""
    assert faults("a = 1\na = 2\n", ".toml")[0].startswith("shop.toml:")
    assert faults(f"a = {'9' * 5000}\n", ".toml")[0].startswith("shop.toml: it is no TOML: ")
    assert faults(f"{'.'.join('a' * 3000)} = 1\n", ".toml") == [
        f"shop.toml: it is nested deeper than {MAX_DEPTH} levels"
    ]
    assert faults("a = 2026-11-28\n", ".toml") == ["shop.toml: a date is no value here; write '2026-11-28' in quotes"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"a: {'[' * 100_000}", f"it is nested deeper than {MAX_DEPTH} levels"),
        (f"a: [&a {'x' * 500_000}, {'*a, ' * 100}]", "more than 4194304 characters"),
        ("%YAML 1.3\n---\na: 1\n", "shop.yaml: it is no YAML 1.2: "),
        (f"a: {2**63}", f"shop.yaml:1:4: a whole number that no field can have: they end at {2**63 - 1}"),
        ('backends: {a: {args: [{"\\ud800": 1}]}}', "has half a character"),
        ("backends: {a: {args: [{max_body_bytes: .inf}]}}", "shop.yaml:1:40: inf is no number that a field can have"),
    ],
    ids=["deep", "aliases of a long text", "version", "long number", "half a character", "infinite"],
)  # fmt: skip
def test_yaml_that_no_program_can_use(text, said):
    """It is refused in a sentence, and at once, however deep or long it would become (CF2)."""
    [problem] = faults(text)
    assert said in problem


def test_numbers_of_users_have_any_length():
    """What goes to a constructor or to ``reconfigure`` is any JSON (CF1)."""
    assert read(f"backends: {{a: {{args: [{9**300}], config: {{user_config: {9**300}}}}}}}").value


def test_names_with_half_a_character():
    """JSON can write what no message can carry, also as a name (CF2)."""
    assert "has half a character" in faults('{"a": {"\\ud800": 1}}', ".json")[0]


def test_a_pipe_is_no_file(tmp_path):
    """A pipe that nobody writes to is refused and not waited for (CF2)."""
    os.mkfifo(tmp_path / "shop.yaml")
    with pytest.raises(BadFileError, match="it is no regular file"):
        read_document(tmp_path / "shop.yaml")


def test_files_that_cannot_be_read(tmp_path):
    """A file that is missing, a folder, too large, of an unknown kind or no UTF-8 is one line (CF1, CF2)."""
    (tmp_path / "shop.yaml").mkdir()
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_FILE + 1))
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    (tmp_path / "shop.ini").write_text("")
    for name, why in {
        "none.yaml": "it cannot be read: No such file or directory",
        "shop.yaml": "it cannot be read: Is a directory",
        "large.yaml": "it is over 1 MiB",
        "latin.yaml:2:4": "it is not UTF-8",
        "shop.ini": "its name must end in one of .yaml, .yml, .toml, .json",
    }.items():
        with pytest.raises(BadFileError) as caught:
            read_document(tmp_path / name.partition(":")[0])
        assert str(caught.value).startswith(f"{tmp_path}/{name}: {why}")


def test_a_file_is_opened_once(tmp_path, monkeypatch):
    """A file that is replaced while it is read is the old one or the new one, and no mixture of both (CF2)."""
    file = tmp_path / "shop.yaml"
    file.write_text(EXAMPLE)
    opened = []
    real = os.open
    monkeypatch.setattr("os.open", lambda path, *given: opened.append(Path(path)) or real(path, *given))
    read_document(file)
    assert opened.count(file) == 1


# --- variables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${X}", "one"), ("a ${X} b${Y}", "a one btwo: [x]"), ("${NONE:-there}", "there"), ("${X:-there}", "one"),
        ("${EMPTY:-there}", "there"), ("${EMPTY}", ""), ("$${X}", "${X}"), ("$$$$", "$$"), ("$X", "$X"), ("$", "$"),
        ("${NONE:-}", ""), ("${NONE:-$${X}", "$${X"), ("$$${X}", "$one"),
    ],
)  # fmt: skip
def test_variables_in_values(text, value):
    """``${X}`` is a variable, ``${X:-default}`` has a default, as in a shell, and ``$$`` is a dollar (CF3)."""
    variables = {"X": "one", "Y": "two: [x]", "EMPTY": ""}
    assert interpolate({"a": [text], text: 1}, variables) == ({"a": [value], text: 1}, [])


def test_a_variable_adds_no_structure(tmp_path):
    """The value of a variable is a text, whatever stands in it, and no variable in it is looked at again (CF3)."""
    evil = "x\nbackends: {evil: {code: 'os:system'}}"
    value, faults = interpolate({"name": "${NAME}"}, {"NAME": evil + "${OTHER}"})
    assert value == {"name": evil + "${OTHER}"}
    assert not faults


def test_variables_that_are_no_text(tmp_path):
    """A variable with bytes that are no UTF-8 is named, since no message could carry it (CF3)."""
    text = HEAD + 'backends: {a: {code: "m:A", args: ["${X}"]}}\n'
    [line] = lines_of(tmp_path, text, {"X": "a\udcff"})
    assert line == "shop.yaml:3:36: environment variable X is not UTF-8; set it to a text"


def test_variables_that_are_not_set(tmp_path):
    """All variables that are not set are named, each with its place, and how to give a default (CF2, CF3)."""
    text = HEAD + "backends:\n  a:\n    code: ${A}\n    args: [1, '${B}', '${']\n"
    assert lines_of(tmp_path, text, {"C": ""}) == [
        "shop.yaml:5:11: environment variable A is not set; set it, or give a default: ${A:-...}",
        "shop.yaml:6:15: environment variable B is not set; set it, or give a default: ${B:-...}",
        "shop.yaml:6:23: '${' must be followed by the name of a variable and '}'; for the two characters write '$${'",
    ]


@given(st.text(), st.dictionaries(st.sampled_from("ABC"), st.text()))
def test_an_escaped_text_stays_as_it_is(text, variables):
    """What is exported with dollars in it comes back as it was, whatever is set (CF3, CF13)."""
    assert interpolate(escaped(text), variables) == (text, [])
