"""The short rows of the fault table; ``make chaos`` runs all of them, with more seeds and a table."""

from __future__ import annotations

import pytest

from tests.chaos.run import ROWS, Row, run_row

SHORT = [row for row in ROWS.values() if row.short and "local" in row.engines]


@pytest.mark.parametrize("row", SHORT, ids=lambda row: row.key)
def test_fault(row: Row) -> None:
    """Something breaks or changes under load, and users see what they were promised (F1-F4, F6, F7, F10, F12, F13, F17,
    F31, F37; G1-G7, G11, FT1-FT3, FT12, DP6, SO8, SO11, CL3). What row RC shows is in test_changes_under_load.

    Only what may never be decides; how long things took is for ``make chaos``.
    """
    result = run_row(row, seed=1)
    assert result.violations == []
    assert result.lost == 0
