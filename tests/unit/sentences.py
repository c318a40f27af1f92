"""What an error message must be like."""

from __future__ import annotations


def sentence(error: BaseException, *parts: object) -> str:
    """Check that an error is one sentence that holds these parts."""
    text = str(error)
    assert text
    assert "\n" not in text
    assert not text.endswith(".")
    assert "pydantic" not in text
    assert "validation error" not in text
    for part in parts:
        assert str(part) in text
    return text
