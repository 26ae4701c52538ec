from __future__ import annotations

import pytest

from groundwire.training.making.pools import POOLS


@pytest.mark.parametrize("name", sorted(POOLS))
def test_a_pool_has_many_values_and_none_twice(name):
    values = POOLS[name]
    assert len(values) == len(set(values)) >= 7
    assert all(isinstance(value, int) or value == value.strip() != "" for value in values)


def test_people_have_two_names():
    assert all(len(person.split()) == 2 for person in POOLS["person"])
