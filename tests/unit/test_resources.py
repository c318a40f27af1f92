"""controller.allocation: who holds what, whether more fits, and what a refusal says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.controller.allocation import CapacityLedger, describe_request, visible_devices
from pointsman.model import Allocation, Capacity, Resources
from tests.properties import examples

GIB = 1024.0**3


def gpu(share: float) -> Resources:
    return Resources(num_cpus=0, num_gpus=share)


def placed(ledger: CapacityLedger, *shares: float) -> list[tuple[int, ...] | None]:
    """Where replicas with these GPU shares land, one after the other; None for no room."""
    allocations = [ledger.place(gpu(share)) for share in shares]
    return [allocation.gpus if allocation else None for allocation in allocations]


@pytest.mark.parametrize(
    ("capacity", "fits", "too_much"),
    [
        (Capacity(num_cpus=4), Resources(num_cpus=4), Resources(num_cpus=4.5)),
        (Capacity(num_gpus=2), gpu(2), gpu(3)),
        (Capacity(num_gpus=1), gpu(0.5), gpu(2)),
        (Capacity(memory=GIB), Resources(memory=GIB), Resources(memory=GIB + 1)),
        (Capacity(custom={"tpu": 2}), Resources(custom={"tpu": 2}), Resources(custom={"tpu": 2.5})),
        (Capacity(custom={"tpu": 2}), Resources(custom={"tpu": 0}), Resources(custom={"disk": 0.1})),
        (Capacity(), Resources(), gpu(0.1)),
    ],
)
def test_strict_resources(capacity: Capacity, fits: Resources, too_much: Resources) -> None:
    """A replica gets what the node has and not a bit more: CPUs, GPUs, memory and custom resources (RM3, RM6)."""
    assert CapacityLedger(capacity, ()).place(too_much) is None
    allocation = CapacityLedger(capacity, ()).place(fits)
    assert allocation is not None
    assert allocation.resources == fits


def test_cpus_are_soft_unless_given() -> None:
    """On a machine whose CPUs nobody counted a replica may ask for any number of them (RM6)."""
    assert CapacityLedger(Capacity(num_cpus=None), ()).place(Resources(num_cpus=1000)) is not None


def test_one_node_is_checked_as_a_whole() -> None:
    """A need of 6 CPUs is refused on a node of 4, also when nothing runs there (RM4)."""
    assert CapacityLedger(Capacity(num_cpus=4), ()).place(Resources(num_cpus=6)) is None


def test_the_total_counts() -> None:
    """When single replicas fit but the total does not, the last one is refused (RM3)."""
    ledger = CapacityLedger(Capacity(num_cpus=2), ())
    assert [ledger.place(Resources(num_cpus=0.75)) is not None for _ in range(3)] == [True, True, False]


def test_a_refusal_takes_nothing() -> None:
    """A replica that fits in all but one resource leaves the others untouched (RM3)."""
    ledger = CapacityLedger(Capacity(num_cpus=1, num_gpus=1, memory=10, custom={"tpu": 1}), ())
    before = ledger.describe()
    for greedy in (
        Resources(num_cpus=2, num_gpus=1, memory=10, custom={"tpu": 1}),
        Resources(num_cpus=1, num_gpus=2, memory=10, custom={"tpu": 1}),
        Resources(num_cpus=1, num_gpus=1, memory=11, custom={"tpu": 1}),
        Resources(num_cpus=1, num_gpus=1, memory=10, custom={"tpu": 2}),
    ):
        assert ledger.place(greedy) is None
        assert ledger.describe() == before
    assert ledger.place(Resources(num_cpus=1, num_gpus=1, memory=10, custom={"tpu": 1})) is not None


@pytest.mark.parametrize(
    ("gpus", "shares", "where"),
    [
        (2, (0.5, 0.5), [(0,), (0,)]),
        (2, (0.5, 0.5, 1), [(0,), (0,), (1,)]),
        (2, (0.6, 0.6, 0.4, 0.4), [(0,), (1,), (0,), (1,)]),
        (2, (0.7, 0.5, 0.5), [(0,), (1,), (1,)]),
        (3, (0.3, 1, 0.6, 1), [(0,), (1,), (0,), (2,)]),
        (3, (0.5, 0.8, 0.3), [(0,), (1,), (0,)]),
        (3, (0.5, 0.8, 0.2), [(0,), (1,), (1,)]),
        (4, (0.5, 2, 1, 1), [(0,), (1, 2), (3,), None]),
        (2, (2,), [(0, 1)]),
        (2, (0.1, 2), [(0,), None]),
        (1, (0.5, 0.6), [(0,), None]),
        (1, (0.1,) * 11, [(0,)] * 10 + [None]),
        (1, (1 / 3,) * 4, [(0,)] * 3 + [None]),
        (0, (0.0, 0.1), [(), None]),
    ],
)
def test_fractions_share_a_gpu(gpus: int, shares: tuple[float, ...], where: list[tuple[int, ...] | None]) -> None:
    """Halves go together on the fullest GPU that has room, so whole GPUs stay free for those that need one (FR1)."""
    assert placed(CapacityLedger(Capacity(num_gpus=gpus), ()), *shares) == where


def test_zero_cpus_are_legal() -> None:
    """A replica that asks for no CPU fits on a node whose CPUs are all taken (FR2)."""
    full = [Allocation(Resources(num_cpus=1))]
    ledger = CapacityLedger(Capacity(num_cpus=1), full)
    assert ledger.place(Resources(num_cpus=0)) is not None
    assert ledger.place(Resources(num_cpus=0.01)) is None


def test_cpus_and_custom_resources_may_be_fractions() -> None:
    """Ten replicas of a tenth fit on one, and an eleventh does not (FR1)."""
    tenth = Resources(num_cpus=0.1, custom={"licence": 0.1})
    ledger = CapacityLedger(Capacity(num_cpus=1, custom={"licence": 1}), ())
    assert [ledger.place(tenth) is not None for _ in range(11)] == [True] * 10 + [False]


needs = st.builds(
    Resources,
    num_cpus=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]),
    num_gpus=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 2.0]),
    memory=st.sampled_from([0.0, 1.0, 100.0]),
    custom=st.dictionaries(st.sampled_from(["tpu", "disk"]), st.sampled_from([0.2, 1.0]), max_size=2),
)


@examples(150)
@given(wanted=st.lists(needs, max_size=15), cpus=st.sampled_from([None, 4.0]))
def test_a_replica_gives_back_exactly_its_share(wanted: list[Resources], cpus: float | None) -> None:
    """Whatever starts and ends, nothing is handed out twice, and what ends leaves room for its like (FR4)."""
    capacity = Capacity(num_cpus=cpus, num_gpus=3, memory=250, custom={"tpu": 2, "disk": 1})
    ledger = CapacityLedger(capacity, ())
    held = [allocation for need in wanted if (allocation := ledger.place(need)) is not None]
    shares = dict.fromkeys(range(3), 0.0)
    for allocation in held:
        whole = allocation.resources.num_gpus
        assert len(allocation.gpus) == (0 if whole == 0 else max(1, int(whole)))
        assert len(set(allocation.gpus)) == len(allocation.gpus)
        for index in allocation.gpus:
            shares[index] += min(1.0, whole)
    assert max(shares.values()) <= 1 + 1e-6
    assert sum(a.resources.memory for a in held) <= 250
    assert sum(a.resources.custom.get("tpu", 0) for a in held) <= 2 + 1e-6
    assert cpus is None or sum(a.resources.num_cpus for a in held) <= cpus + 1e-6

    assert CapacityLedger(capacity, held).describe() == ledger.describe()
    for number, ended in enumerate(held):
        rest = CapacityLedger(capacity, held[:number] + held[number + 1 :])
        assert rest.place(ended.resources) is not None


def test_the_place_of_a_replica_that_ended_is_found_again() -> None:
    """A replica that ends gives back its half, and the next half lands beside the one that stayed (FR4)."""
    ledger = CapacityLedger(Capacity(num_gpus=2), ())
    halves = [ledger.place(gpu(0.5)) for _ in range(4)]
    assert [half.gpus if half else None for half in halves] == [(0,), (0,), (1,), (1,)]
    left = [half for number, half in enumerate(halves) if half and number in (0, 2, 3)]
    assert placed(CapacityLedger(Capacity(num_gpus=2), left), 0.6, 0.5, 0.1) == [None, (0,), None]


@pytest.mark.parametrize(
    ("capacity", "held", "parts"),
    [
        (Capacity(num_gpus=2, memory=1024), [], {"num_gpus=2", "memory=1024"}),
        (Capacity(num_cpus=3), [Resources(num_cpus=0.5)], {"num_cpus=2.5", "num_gpus=0", "memory=0"}),
        (Capacity(custom={"tpu": 3, "a": 1}), [Resources(custom={"tpu": 1})], {"tpu=2", "a=1"}),
        (Capacity(memory=64 * GIB), [Resources(memory=GIB)], {f"memory={63 * 1024**3}"}),
        (Capacity(num_gpus=1), [gpu(0.1)] * 7, {"num_gpus=0.3"}),
        (Capacity(num_gpus=2), [gpu(0.6), gpu(0.7)], {"num_gpus=0.7 (at most 0.4 on one GPU)"}),
    ],
)
def test_what_is_free_is_told(capacity: Capacity, held: list[Resources], parts: set[str]) -> None:
    """An operator who is refused reads what is free, each resource by name, without rounding dust (RM3)."""
    ledger = CapacityLedger(capacity, ())
    for need in held:
        assert ledger.place(need) is not None
    told = ledger.describe().split(", ")
    assert all(any(part in (text, text.partition(" (")[0]) for text in told) for part in parts), told


@pytest.mark.parametrize(
    ("resources", "count", "text"),
    [
        (Resources(), 1, "1 x (num_cpus=1)"),
        (Resources(num_cpus=0.5, num_gpus=2), 3, "3 x (num_cpus=0.5, num_gpus=2)"),
        (
            Resources(memory=2 * GIB, custom={"b": 1, "a": 0.5}),
            2,
            f"2 x (num_cpus=1, memory={2 * 1024**3}, a=0.5, b=1)",
        ),
    ],
)
def test_what_was_asked_is_told(resources: Resources, count: int, text: str) -> None:
    """An operator who is refused reads what was asked for, per replica and how often (RM3)."""
    assert describe_request(resources, count) == text


@pytest.mark.parametrize(
    ("gpus", "ids", "text"),
    [((), (), ""), ((0,), (), "0"), ((2, 3), (), "2,3"), ((1,), ("5", "GPU-8a"), "GPU-8a"), ((), ("5", "7"), "")],
)
def test_visible_devices(gpus: tuple[int, ...], ids: tuple[str, ...], text: str) -> None:
    """A replica sees its own GPUs under the machine's own names, and none when it asked for none (RM7)."""
    capacity = Capacity(num_gpus=len(ids) or 4, gpu_ids=ids)
    assert visible_devices(Allocation(gpu(len(gpus)), gpus), capacity) == text
