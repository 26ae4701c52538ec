from __future__ import annotations

import json

import pytest

from groundwire.batch import ahead
from groundwire.batch.ahead import Ahead
from groundwire.batch.output import line_of


def line(place: int) -> bytes:
    return line_of(f"id {place}", {"status": "checked", "score": place / 7})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.jsonl.ahead"


def test_rows_are_kept_with_their_places_and_found_again(path):
    kept = Ahead(path, fresh=True)
    kept.add((place, line(place)) for place in (5, 3))
    kept.add([(9, line(9))])
    kept.close()
    assert [json.loads(each)["place"] for each in path.read_bytes().splitlines()] == [5, 3, 9]
    found = Ahead(path, fresh=False)
    assert len(found) == 3
    assert 3 in found
    assert 4 not in found
    assert [found.line(place) for place in (3, 5, 9)] == [line(3), line(5), line(9)]
    assert found.get(9)["id"] == "id 9"
    found.forget_before(5)
    found.forget([6, 9])
    assert (len(found), 5 in found) == (1, True)
    found.close()


def test_the_file_is_emptied_when_all_rows_have_had_their_turn(path):
    kept = Ahead(path, fresh=True)
    kept.add([(1, line(1)), (2, line(2))])
    kept.forget([1])
    kept.tidy()
    assert path.stat().st_size
    kept.forget([2])
    kept.tidy()
    assert path.stat().st_size == 0
    kept.add([(3, line(3))])
    assert kept.line(3) == line(3)
    kept.close()


def test_the_file_does_not_grow_with_rows_that_had_their_turn(path, monkeypatch):
    monkeypatch.setattr(ahead, "DEAD", 2000)
    kept = Ahead(path, fresh=True)
    for place in range(500):
        kept.add([(place, line(place))])
        kept.forget([place - 3])
        kept.tidy()
        assert path.stat().st_size < 4000
    assert [kept.line(place) for place in (497, 498, 499)] == [line(497), line(498), line(499)]
    kept.close()
    found = Ahead(path, fresh=False)
    assert found.line(499) == line(499)
    found.close()
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "torn", [b'{"place": 3, "id": 1, "hall', b"\0" * 100, b'{"id": 1, "hallucination": {}}\n', b"5\n"]
)
def test_a_torn_end_is_cut_off(path, torn):
    kept = Ahead(path, fresh=True)
    kept.add([(1, line(1))])
    kept.close()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    found = Ahead(path, fresh=False)
    assert len(found) == 1
    assert path.read_bytes() == whole
    found.close()
