"""What was needed a season ago, such as a day: replicas for it start ahead. Pure."""

from __future__ import annotations

import math

from pointsman.model.origin import Struct

PARTS = 720
"""A season is remembered in so many parts at most, each with the highest number that was needed in it."""
AHEAD_S = 3.0
"""Seconds that replicas shall be ready early: a rise is seen only after it has begun."""


class Season(Struct, frozen=True):
    """The highest numbers that were needed, by parts of time, oldest first. ``first`` is the index of the oldest part
    since time 0."""

    first: int
    parts: tuple[int, ...] = ()


def noted(season: Season | None, season_s: float, now: float, needed: int) -> Season:
    """The same, with what is needed by this look."""
    width_s = _width(season_s)
    index = math.floor(now / width_s)
    if season is None or not season.parts or index - season.first > 3 * len(season.parts) + PARTS:
        return Season(index, (needed,))
    last = season.first + len(season.parts) - 1
    if index <= last:
        if season.parts[-1] >= needed:
            return season
        return Season(season.first, (*season.parts[:-1], needed))
    parts = (*season.parts, *(0,) * (index - last - 1), needed)
    kept = math.ceil(season_s / width_s) + 2
    return Season(season.first + max(0, len(parts) - kept), parts[-kept:])


def ahead(season: Season | None, season_s: float, now: float, start_s: float) -> int:
    """The highest number that was needed a season before the time in which a replica that is launched now is ready."""
    if season is None:
        return 0
    width_s = _width(season_s)
    begin = max(season.first, math.floor((now - season_s) / width_s))
    end = math.floor((now - season_s + start_s + AHEAD_S) / width_s)
    parts = season.parts[begin - season.first : max(0, end + 1 - season.first)]
    return max(parts, default=0)


def _width(season_s: float) -> float:
    return max(1.0, season_s / PARTS)
