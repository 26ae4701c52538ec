from __future__ import annotations

import random

import pytest

from groundwire.errors import InputError
from groundwire.training.making.run import TEMPLATES
from groundwire.training.making.template import Template, calculate, fill, read_templates

RECORD = {
    "id": "leave",
    "domain": "policy",
    "slots": {
        "company": "@company",
        "weeks": [18, 20, 26],
        "paid": {"from": 4, "to": 10, "step": 2},
        "unpaid": "=weeks - paid",
        "rose,fell": [["rose", "fell"], ["fell", "rose"]],
    },
    "passages": ["{company}: {weeks} weeks, the first {paid} paid. Demand {rose}."],
    "facts": [
        {"right": [["plain", "{weeks} weeks."], ["sum", "{unpaid} unpaid weeks."]], "swap": [["weeks", "paid"]]},
        {"right": [["plain", "Demand {rose}."]], "wrong": [["trend", "Demand {fell}."]]},
    ],
    "questions": [["How long?", [0]], ["Summarise.", [0, 1]]],
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"passages": ["{company} in {town}."]}, r"\{town\}"),
        ({"slots": {**RECORD["slots"], "weeks": "@weeks"}}, "@weeks"),
        ({"slots": {**RECORD["slots"], "unpaid": "=__import__('os')"}}, "sum"),
        ({"slots": {**RECORD["slots"], "rose,fell": [["rose"]]}}, "rose,fell"),
        ({"questions": [["How long?", [7]]]}, "asks for facts"),
        ({"facts": [{"right": [["splendid", "x"]]}]}, "splendid"),
        ({"facts": []}, "at least one"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_template_s_name(change, said):
    with pytest.raises(InputError, match=said) as caught:
        Template.of({**RECORD, **change})
    assert "leave" in str(caught.value) or "sum" in str(caught.value) or "@weeks" in str(caught.value)


def test_values_are_drawn_worked_out_and_kept():
    template = Template.of(RECORD)
    for seed in range(20):
        values = template.draw(random.Random(seed))
        assert values["unpaid"] == values["weeks"] - values["paid"]
        assert {values["rose"], values["fell"]} == {"rose", "fell"}
        assert template.draw(random.Random(seed)) == values
    again = template.draw(random.Random(1), {"weeks": 26, "paid": 4})
    assert (again["weeks"], again["unpaid"]) == (26, 22)


def test_text_is_filled_as_people_write():
    assert fill("{a:,} and {b}", {"a": 12000, "b": 2.5}) == "12,000 and 2.5"
    assert fill("{a} rose", {"a": "demand"}) == "Demand rose"
    assert fill("{a}", {"a": 6.0}) == "6"


def test_sums_know_arithmetic_and_nothing_else():
    assert calculate("(a + 2) * b // 3", {"a": 4, "b": 2}) == 4
    for wrong in ("a ** b", "a.real", "f(a)", "a if b else a", "'x'", "c"):
        with pytest.raises(InputError):
            calculate(wrong, {"a": 1, "b": 2, "c": "text"})


def test_every_template_that_ships_can_be_drawn():
    templates = list(read_templates(TEMPLATES))
    assert len({t.id for t in templates}) == len(templates) >= 200
    for template in templates:
        values = template.draw(random.Random(3))
        for text in (*template.passages, *(t for f in template.facts for _, t in (*f.right, *f.wrong))):
            assert "{" not in fill(text, values)
