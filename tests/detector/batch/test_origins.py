from __future__ import annotations

import pytest

from groundwire.batch.origins import MOST, OTHERS, Origins, unlike
from groundwire.batch.reader import ExampleRow, InvalidRow
from groundwire.errors import InputError
from groundwire.rates import UNKNOWN, Rate
from groundwire.types import Example

CHECKED = {"status": "checked", "score": 0.7, "flagged": True, "reason": None, "unlike_training": None}
NOT_CHECKED = CHECKED | {"status": "not_checked", "score": None, "flagged": None, "reason": "abstained"}


def row(line: int, **about: object) -> ExampleRow:
    return ExampleRow(line, line, Example(str(line), [{"role": "user", "content": f"{line}"}], "r"), about)


def test_generators_are_counted_apart():
    found = Origins()
    found.add(CHECKED, row(1, generator="a"))
    found.add(NOT_CHECKED, row(2, generator="a"))
    found.add(CHECKED | {"flagged": False}, InvalidRow(3, 3, InputError("x")))
    lines = "\n".join(found.lines())
    assert "  a: 2 rows, 100.0% flagged, 1 not checked (1 abstained), unlike training -" in lines
    assert "  (none): 1 rows, 0.0% flagged" in lines
    assert lines.count(UNKNOWN) == 2
    assert unlike(found.all) == "-"


def test_rows_that_do_not_differ_need_no_lines():
    found = Origins()
    found.add(CHECKED, row(1))
    assert found.lines() == []


@pytest.mark.parametrize(("of", "kind"), [("ab", Rate), ("a", str), ("", str)])
def test_a_rate_is_corrected_where_every_generator_has_labels(of, kind):
    found = Origins()
    for i in range(200):
        name = "ab"[i % 2]
        found.add(CHECKED, row(i, generator=name, **({"label": int(i % 8 < 4)} if name in of else {})))
    assert isinstance(found.corrected(), kind)


@pytest.mark.parametrize("about", [{"label": "yes"}, {"label": 1, "label_weight": -1}, {"label": [1]}, {"label": 2}])
def test_a_label_that_makes_no_sense_does_not_end_a_run(about):
    found = Origins()
    found.add(CHECKED, row(1, **about))
    assert (found.all.rows, found.all.labelled) == (1, 0)


def test_memory_is_bounded_in_generators():
    found = Origins()
    for i in range(MOST + 50):
        found.add(CHECKED, row(i, generator=f"g{i}"))
    assert len(found.by) == MOST + 1
    assert found.by[OTHERS].rows == 50
