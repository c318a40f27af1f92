"""arguments: what users may write for one."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pointsman.arguments import check_timeout


@pytest.mark.parametrize("value", [1, 0.25, 1e-9, 1e9, Fraction(1, 2), np.float32(0.5), np.int64(3)])
def test_numbers_of_seconds(value: Any) -> None:
    """Any kind of real number above 0 is a deadline, and arrives as a float (HE2)."""
    checked = check_timeout(value, "timeout_s")
    assert checked == float(value)
    assert type(checked) is float


def test_none_is_none() -> None:
    """None leaves the deadline to the endpoint or the instance (HE2, HA10)."""
    assert check_timeout(None, "timeout_s") is None


@pytest.mark.parametrize("value", [0, -1, -0.0, math.nan, math.inf, -math.inf, pytest.param(10**400, id="huge")])
def test_numbers_that_are_no_deadline(value: Any) -> None:
    """What is not finite or not above 0 is a ValueError that names the option (HE2)."""
    with pytest.raises(ValueError, match="request_timeout_s"):
        check_timeout(value, "request_timeout_s")


@pytest.mark.parametrize("value", ["5", b"5", True, False, [], {}, 1j, Decimal(1), object()])
def test_things_that_are_no_numbers(value: Any) -> None:
    """What is no real number, a bool included, is a TypeError that names the option (HE2)."""
    with pytest.raises(TypeError, match="timeout_s"):
        check_timeout(value, "timeout_s")
