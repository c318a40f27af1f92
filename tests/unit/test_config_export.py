"""A file of what runs: applying it would change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.configfile.checking import check
from pointsman.configfile.exporting import export
from pointsman.configfile.plan import Packed, Rules, plan, to_pack
from pointsman.configfile.reading import Document, parse
from pointsman.configfile.wanting import wanted_of
from pointsman.configfile.yamltree import write_yaml
from pointsman.model import BackendConfigSpec, CustomPolicy, Pins, Placement, Resources, TrafficPolicy
from pointsman.wire.apply import Declared, Marks, WantedBackend
from tests.unit.test_config_plan import OWNER, backend, declared, endpoint

CONFIG = {
    "num_replicas": 3,
    "batch_wait_timeout": 0.25,
    "graceful_shutdown_timeout_s": 7,
    "http_methods": ["a", "b"],
    "user_config": {"yes": "no", "price": "$5 ${X}", "1": [None, True, 1.0]},
}
RESOURCES = Resources(num_cpus=0.5, custom={"slots": 2.0}, env_vars={"HUB": "s3cret $"}, working_dir="/usr")


def rich() -> Declared:
    """An instance in which nothing is as by default."""
    source = {
        "args": b'["w $x", {"k": [1]}]',
        "env": b'{"requirements": ["a==1"], "python": "/usr/bin/python3"}',
        "version": "2",
    }
    policy = TrafficPolicy(3, {"a": 0.75, "b c": 0.25}, {"b c": 0.1}, CustomPolicy("policies:mine", ("/x",)))
    return declared(
        [backend("a", config=CONFIG, resources=RESOURCES, source=source), backend("b c")],
        [
            endpoint(
                "e",
                policy=policy,
                methods=("POST", "GET"),
                idempotent=True,
                shard_key="cookie:id",
                request_timeout_s=2.5,
                max_body_bytes=1000,
            ),
            endpoint("plain", route=None, weights={"a": 1.0}),
        ],
        pins={"e": Pins({"user 1": "b c"})},
    )


def diff_of(text: str, there: Declared):
    """What a file with this text changes, if its code is as it was."""
    document = Document("shop.yaml", Path("/"), parse("shop.yaml", text.encode(), ".yaml"))
    wanted = wanted_of(check(document, {"HUB": "s3cret $"}), None)
    packed = {
        tag: Packed(
            WantedBackend(
                "c",
                there.backends[tag].origin,
                there.backends[tag].traits,
                BackendConfigSpec(),
                fields["ray_actor_options"],
                there.backends[tag].source,
            ),
            b"",
        )
        for tag, fields in to_pack(wanted, there, Rules()).items()
    }
    return plan(wanted, there, Rules(), packed)


@pytest.mark.parametrize("owner", [OWNER, None])
def test_the_diff_of_an_exported_file_is_empty(owner):
    """What runs becomes a file; comparing the two finds no difference, whatever is set (CF13)."""
    made = export(rich(), owner, "default")
    text = write_yaml(made.content)
    assert not made.left_out
    assert "s3cret" not in text
    assert "HUB: " in text
    assert "${HUB}" in text
    assert diff_of(text, rich()).as_json() == {"version": 7, "changes": [], "conflicts": []}


def test_variables_of_any_name_can_be_exported():
    """A variable of a replica may have a name that no ``${X}`` can have; the file asks for one that has (CF13)."""
    there = declared([backend("a", resources=Resources(env_vars={"B-C.d": "s3cret", "1": "s3cret"}))], [])
    text = write_yaml(export(there, OWNER, "default").content)
    document = Document("shop.yaml", Path("/"), parse("shop.yaml", text.encode(), ".yaml"))
    wanted = wanted_of(check(document, {"B_C_d": "s3cret", "_1": "s3cret"}), None)
    assert wanted.backends["a"]["ray_actor_options"] == there.backends["a"].resources


def test_the_folder_of_a_custom_policy_is_exported(tmp_path):
    """It is imported from where it was, also if no backend lies there (CF13)."""
    policy = TrafficPolicy(3, {"a": 1.0}, {}, CustomPolicy("policies:mine", (str(tmp_path),)))
    there = declared([backend("a")], [endpoint("e", policy=policy)])
    assert str(tmp_path) in export(there, OWNER, "default").content["python_path"]


def test_what_was_set_up_by_hand_can_be_exported():
    """Without a file so far, all there is comes into one that has the instance's name, and has no difference (CF13)."""
    there = declared([backend()], [endpoint()], {"backend/a": Marks(), "endpoint/e": Marks()})
    made = export(there, None, "lab")
    assert made.content["name"] == "lab"
    assert not diff_of(write_yaml(made.content), there).changes


def test_what_no_file_can_have_is_named():
    """Code that was sent by value, and what uses it, is left out and named with the reason (CF13)."""
    there = declared(
        [
            backend("a", source={"path": ""}),
            backend("b", source={"args": None}),
            backend("c", resources=Resources(placement=Placement(node="n1"))),
            backend("d"),
        ],
        [endpoint("e"), endpoint("f", route="/f", weights={"d": 1.0})],
    )
    made = export(there, OWNER, "default")
    assert list(made.content["backends"]) == ["d"]
    assert list(made.content["endpoints"]) == ["f"]
    assert made.left_out["backend/a"].startswith("its code was sent by value")
    assert made.left_out["backend/b"].startswith("its arguments are not JSON")
    assert made.left_out["backend/c"].startswith("it is placed on node n1")
    assert made.left_out["endpoint/e"] == "it uses a"


def test_whose_objects_are_exported():
    """An export has the objects of one file; which files there are is said where it is not clear (CF13)."""
    there = declared([backend("a"), backend("b")], marks={"backend/b": Marks("other")})
    assert list(export(there, "other", "default").content["backends"]) == ["b"]
    with pytest.raises(ValueError, match="objects of several files are here: other, shop; say whose"):
        export(there, None, "default")
    with pytest.raises(ValueError, match="no object is of a file 'nobody'; there are objects of other, shop"):
        export(there, "nobody", "default")


def test_labels_of_nodes_are_exported():
    """Where replicas may run on a cluster is part of the file (CF13)."""
    placement = Placement(labels=({"zone": "a"}, {"zone": "!b"}))
    made = export(declared([backend(resources=Resources(placement=placement))]), OWNER, "default")
    assert made.content["backends"]["a"]["ray_actor_options"] == {
        "label_selector": {"zone": "a"},
        "fallback_strategy": [{"label_selector": {"zone": "!b"}}],
    }
