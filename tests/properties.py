"""How much a test tries: a part in the gate, all where there is time."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

GATE_EXAMPLES = 50
"""As many as a property test tries in the gate at the most."""

LONG_FACTOR = 5
"""How many times the usual number a property test tries in ``make test-long``."""

PROFILE = os.environ.get("POINTSMAN_EXAMPLES", "gate")
"""``gate``, or ``long``."""


def load_profile() -> None:
    """Settings of property tests that name no number of their own."""
    settings.register_profile("gate", deadline=None, max_examples=GATE_EXAMPLES)
    settings.register_profile("long", deadline=None, max_examples=100 * LONG_FACTOR)
    settings.load_profile(PROFILE)


def is_long() -> bool:
    """Whether there is time for what repeats a test of the gate in full."""
    return PROFILE != "gate"


def tries(gate: int, long: int) -> int:
    """How often something is done that takes long: ``gate`` times in the gate, ``long`` times where there is time."""
    return gate if PROFILE == "gate" else long


def examples(count: int, **more: Any) -> settings:
    """Settings of a property test for which ``count`` examples are usual."""
    tried = min(count, GATE_EXAMPLES) if PROFILE == "gate" else count * LONG_FACTOR
    return settings(deadline=None, max_examples=tried, **more)
