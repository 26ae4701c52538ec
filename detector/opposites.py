"""Words that turn a sentence: negations, and opposites of everyday reports. English, for reasons alone: no score has
them."""

from __future__ import annotations

NEGATIONS = frozenset(("not", "never", "neither", "nor", "cannot", "nobody", "nothing"))

_PAIRS = (
    (
        "rise rises rose risen grow grows grew grown increase increases increased gain gains gained climb climbs"
        " climbed up higher more above improved raised longer larger faster",
        "fall falls fell fallen drop drops dropped decrease decreases decreased lose loses lost decline declines"
        " declined shrank down lower less below worsened reduced cut shorter smaller slower",
    ),
    ("before earlier", "after later"),
    ("open opens opened", "closed close closes"),
    ("first", "last"),
    ("early", "late"),
    ("minimum least", "maximum most"),
    ("north northern", "south southern"),
    ("east eastern", "west western"),
    ("left", "right"),
    ("inside", "outside"),
    ("bought buys", "sold sells"),
    ("won wins beat", "lost loses"),
    ("accepted approved allowed allows permitted", "rejected refused denied forbidden prohibited banned"),
    ("includes included including", "excludes excluded excluding"),
    ("required mandatory must", "optional"),
    ("enabled enables", "disabled disables"),
    ("starts started begins began", "ends ended stops stopped"),
    ("all every always", "some none never sometimes"),
    ("only", "also"),
    ("many", "few"),
    ("morning", "evening afternoon"),
    ("daily", "weekly monthly"),
    ("if", "unless"),
    ("with", "without"),
    ("may might could", "must will"),
)


def _opposites() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for one, other in ((a.split(), b.split()) for a, b in _PAIRS):
        for mine, theirs in ((one, other), (other, one)):
            for word in mine:
                found.setdefault(word, set()).update(theirs)
    return {word: frozenset(others) for word, others in found.items()}


OPPOSITES = _opposites()
