"""Values for the slots of templates that any document may need: people, places, dates. The lists are in pools.json."""

from __future__ import annotations

import json
from pathlib import Path

_LISTS: dict[str, list[str]] = json.loads((Path(__file__).parent / "pools.json").read_text("utf-8"))
_SURNAMES, _MONTHS = _LISTS["surname"], _LISTS["month"]
_SURNAMES_EACH = 6  # of a first name

POOLS: dict[str, tuple[str | int, ...]] = {
    **{name: tuple(values) for name, values in _LISTS.items()},
    "person": tuple(
        f"{first} {_SURNAMES[(i * 29 + k * 31) % len(_SURNAMES)]}"
        for i, first in enumerate(_LISTS["first_name"])
        for k in range(_SURNAMES_EACH)
    ),
    "date": tuple(f"{day} {month}" for month in _MONTHS for day in range(1, 29)),
    "full_date": tuple(
        f"{(3 * i) % 28 + 1} {_MONTHS[(5 * i) % 12]} {year}" for i, year in enumerate(range(1870, 2025))
    ),
    "year": tuple(range(1820, 2025)),
    "recent_year": tuple(range(2008, 2025)),
}
