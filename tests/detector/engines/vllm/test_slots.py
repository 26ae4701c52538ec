"""Slots: whatever a continuous batch does to a request, its readout is that of its rows folded in one piece."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundwire.engines.vllm.running import RunningBlock, RunningFile, tag
from groundwire.engines.vllm.slots import ROOM, SPARE, Part, Slots
from groundwire.engines.vllm.wire import Take, Wish, unpack, unpack_rows
from groundwire.scoring import Pooling, Scorer
from groundwire.types import Readout
from tests.detector.engines.vllm.conftest import WIDTH, scorer_of


def rows_of(seed: int, count: int) -> torch.Tensor:
    """Residual rows of a sequence, by position: eighths, so that encoding is exact whichever rows share a product."""
    return torch.randint(-16, 17, (count, WIDTH), generator=torch.Generator().manual_seed(seed)) / 8


def folded(scorer: Scorer, rows: torch.Tensor) -> Readout:
    state = scorer.fold(scorer.new_state(1), scorer.encode(rows), torch.zeros(len(rows), dtype=torch.long))
    return scorer.finish(state, 0)


def assert_equal(found: bytes | None, scorer: Scorer, expected: Readout) -> None:
    assert found is not None
    readout = unpack(found, scorer)
    assert (readout.rows, readout.finite) == (expected.rows, expected.finite)
    assert torch.equal(readout.peaks, expected.peaks)
    for name in ("contributions", "token_logits", "mean_features"):
        assert torch.equal(getattr(readout, name), getattr(expected, name))
    assert readout.logit == expected.logit


@dataclass
class Sequence_:
    """A request as the engine runs it: prompt, then one token a step. computed: rows that the engine has run. known:
    those it had run before it was preempted."""

    name: str
    prompt: int
    total: int
    rows: torch.Tensor
    computed: int = 0
    known: int = 0


def step(slots: Slots, parts: Sequence[tuple[Sequence_, int]]) -> None:
    """Run so many tokens of each."""
    rows = torch.cat([s.rows[s.computed : s.computed + count] for s, count in parts])
    slots.step(rows, [Part(s.name, s.computed, count) for s, count in parts])
    for s, count in parts:
        s.computed += count


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, ROOM - 1, ROOM, ROOM + 1, 3 * ROOM + 5])
def test_an_answer_that_is_decoded_token_by_token(scorer, length):
    slots = Slots(scorer, 4)
    one = Sequence_("r", 10, 10 + length, rows_of(length, 10 + length))
    slots.begin("r", Wish("key"), 10)
    step(slots, [(one, 10)])
    while one.computed < one.total:
        step(slots, [(one, 1)])
    slots.end(["r"])
    (found,) = slots.take([Take("key", 0, length)])
    assert_equal(found, scorer, folded(scorer, one.rows[10:]))
    assert len(slots) == 0


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_a_continuous_batch(seed):
    """Chunked prefill, mixed steps, preemption and resumption, a surplus row: each readout is that of its own rows."""
    rng = random.Random(seed)
    scorer = scorer_of(rng.choice([Pooling("window", 8, 1.0, 0.2), Pooling("max")]))
    slots = Slots(scorer, 8)
    requests = []
    for i in range(rng.randint(1, 5)):
        prompt, length = rng.randint(1, 20), rng.randint(1, 2 * ROOM)
        requests.append(Sequence_(f"r{i}", prompt, prompt + length, rows_of(seed + i, prompt + length + 1)))
    mine = [r for r in requests if rng.random() < 0.7]
    for r in mine:
        slots.begin(r.name, Wish(r.name), r.prompt)
    while waiting := [r for r in requests if r.computed < r.total]:
        parts = []
        for r in rng.sample(waiting, rng.randint(1, len(waiting))):
            if rng.random() < 0.05:  # preempted: it is announced again, and what it had is computed anew
                r.known, r.computed = max(r.known, r.computed), 0
                if r in mine:
                    slots.begin(r.name, Wish(r.name), r.prompt)
            ahead = max(r.prompt, r.known) - r.computed  # tokens that are there already
            parts.append((r, rng.randint(1, ahead) if ahead > 0 else 1))
        step(slots, parts)
    if surplus := [r for r in requests if rng.random() < 0.5]:
        step(slots, [(r, 1) for r in surplus])
    slots.end([r.name for r in requests])
    for r, found in zip(mine, slots.take([Take(r.name, 0, r.total - r.prompt) for r in mine]), strict=True):
        assert_equal(found, scorer, folded(scorer, r.rows[r.prompt : r.total]))
    assert len(slots) == 0


def test_rows_that_a_stop_string_took_away_are_not_part_of_the_answer(scorer):
    slots = Slots(scorer, 2)
    one = Sequence_("r", 3, 63, rows_of(1, 63))
    slots.begin("r", Wish("key", hold=9), 3)
    step(slots, [(one, 3)])
    for _ in range(60):
        step(slots, [(one, 1)])
    (found,) = slots.take([Take("key", 0, 52)])
    assert_equal(found, scorer, folded(scorer, one.rows[3:55]))


def test_rows_that_were_folded_already_cannot_be_taken_away(scorer):
    slots = Slots(scorer, 2)
    one = Sequence_("r", 1, 200, rows_of(1, 200))
    slots.begin("r", Wish("key"), 1)
    for _ in range(100):
        step(slots, [(one, 1)])
    assert slots.take([Take("key", 0, 10)]) == [None]
    assert len(slots) == 0


def test_what_is_kept_is_folded_from_where_the_answer_begins(scorer):
    slots = Slots(scorer, 2)
    one = Sequence_("r", 5, 105, rows_of(2, 105))
    slots.begin("r", Wish("key", keep=True), 5)
    step(slots, [(one, 5)])
    for _ in range(100):
        step(slots, [(one, 1)])
    (found,) = slots.take([Take("key", 0, 40, skip=50)])
    assert_equal(found, scorer, folded(scorer, one.rows[55:95]))


def test_a_row_that_never_came_is_missed(scorer):
    slots = Slots(scorer, 2)
    one = Sequence_("r", 4, 20, rows_of(3, 20))
    slots.begin("r", Wish("key", start=4, hold=0, replay=True), 20)
    one.computed = 8  # a prefix-cache hit over the answer
    step(slots, [(one, 12)])
    slots.end(["r"])
    assert slots.take([Take("key", 0, 16)]) == [None]


def test_a_replay_in_chunks(scorer):
    slots = Slots(scorer, 2)
    ones = [Sequence_(f"r{i}", 7, 90 + i, rows_of(4 + i, 90 + i)) for i in range(3)]
    for one in ones:
        slots.begin(one.name, Wish(one.name, start=7, hold=0, replay=True, features=True), one.total)
    while waiting := [one for one in ones if one.computed < one.total]:
        step(slots, [(one, min(13, one.total - one.computed)) for one in waiting])
    slots.end([one.name for one in ones])
    assert len(slots) == 0  # what was found of a replay waits without a slot
    for one, found in zip(ones, slots.take([Take(one.name, 0, one.total - 7) for one in ones]), strict=True):
        assert_equal(found, scorer, folded(scorer, one.rows[7:]))
        assert found is not None
        features = unpack(found, scorer).features
        assert features is not None
        assert torch.equal(features, scorer.encode(one.rows[7:]))


def test_residual_rows_come_back_as_they_are(scorer):
    slots = Slots(scorer, 2)
    one = Sequence_("r", 9, 9, rows_of(5, 9))
    slots.begin("r", Wish("key", start=0, hold=0, replay=True, rows=True), 9)
    step(slots, [(one, 4)])
    step(slots, [(one, 5)])
    slots.end(["r"])
    (found,) = slots.take([Take("key", 0, 9)])
    assert found is not None
    assert torch.equal(unpack_rows(found), one.rows)


def test_the_last_token_is_read_by_a_request_that_goes_on(scorer):
    """An answer that ends by length: its last token was never an input. Prompt and answer are sent once more."""
    slots = Slots(scorer, 2)
    one = Sequence_("r", 5, 25, rows_of(6, 25))
    slots.begin("r", Wish("key"), 5)
    step(slots, [(one, 5)])
    for _ in range(19):
        step(slots, [(one, 1)])
    slots.end(["r"])
    again = Sequence_("again", 25, 25, one.rows, computed=16)  # the rest was in the prefix cache
    slots.begin("again", Wish("key"), 25)
    step(slots, [(again, 9)])
    (found,) = slots.take([Take("key", 0, 20)])
    assert_equal(found, scorer, folded(scorer, one.rows[5:]))


def test_choices_of_one_request_are_told_apart_by_their_ids(scorer):
    slots = Slots(scorer, 4)
    ones = [Sequence_(f"{i}_chat-x", 2, 12, rows_of(i, 12)) for i in range(3)]
    for one in ones:
        slots.begin(one.name, Wish("key", choices=3), 2)
        step(slots, [(one, 12)])
    found = slots.take([Take("key", i, 10) for i in (2, 0, 1)])
    for i, data in zip((2, 0, 1), found, strict=True):
        assert_equal(data, scorer, folded(scorer, ones[i].rows[2:]))
    with pytest.raises(ValueError, match="invalid literal"):
        slots.begin("chat-x", Wish("other", choices=2), 2)


def test_what_is_dropped_leaves_its_slot(scorer):
    slots = Slots(scorer, 2)
    for i in range(1000):
        slots.begin(f"r{i}", Wish(f"k{i}"), 1)
        step(slots, [(Sequence_(f"r{i}", 1, 3, rows_of(i, 3)), 3)])
        if i % 2:
            slots.end([f"r{i}"])
        slots.drop([f"k{i}"])
    assert len(slots) == 0
    assert not slots.following


def test_answers_that_nobody_fetches_do_not_pile_up(scorer, caplog):
    slots = Slots(scorer, 2)
    for i in range(SPARE + 50):
        slots.begin(f"r{i}", Wish(f"k{i}"), 1)
        slots.end([f"r{i}"])
    assert len(slots) <= SPARE + 1
    assert "never fetched" in caplog.text
    more = [f"m{i}" for i in range(SPARE)]
    for name in more:  # more than there is room for are under way: room is made
        slots.begin(name, Wish(name), 1)
    assert slots.take([Take(name, 0, 0) for name in more]).count(None) == 0


def test_a_step_that_was_lost_is_no_verdict(scorer):
    slots = Slots(scorer, 2)
    one = Sequence_("r", 1, 10, rows_of(0, 10))
    slots.begin("r", Wish("key"), 1)
    step(slots, [(one, 5)])
    slots.lose()
    step(slots, [(one, 5)])
    assert slots.take([Take("key", 0, 9)]) == [None]
    assert slots.take([Take("nobody", 0, 9)]) == [None]


def test_the_score_so_far_is_written_where_the_front_reads_it(scorer):
    file = RunningFile()
    try:
        block = RunningBlock(file.path, file.block())
        slots = Slots(scorer, 2, file)
        (place,) = block.lend(1)
        one = Sequence_("r", 2, 22, rows_of(7, 22))
        slots.begin("r", Wish("key", running=(place,)), 2)
        assert block.read(place, tag("key")) is None
        step(slots, [(one, 2)])
        for row in range(20):
            step(slots, [(one, 1)])
            total = block.read(place, tag("key"))
            if row == 0:  # the newest row is held back
                assert total is None
                continue
            expected = folded(scorer, one.rows[2 : 2 + row])
            assert total == pytest.approx(expected.logit - scorer.intercept, abs=1e-5)
        assert block.read(place, tag("another")) is None
    finally:
        file.close()
    assert not file.path.exists()


def test_nobody_waits_for_a_score_so_far(scorer, monkeypatch):
    """On a GPU it is still being computed when its step has been handed over; here `done` says which are there."""
    done, numbers = set(), iter(range(9))

    def mark(self: Slots) -> Callable[[], bool]:
        number = next(numbers)
        return lambda: number in done

    monkeypatch.setattr(Slots, "_mark", mark)
    file = RunningFile()
    try:
        block = RunningBlock(file.path, file.block())
        slots, (place,) = Slots(scorer, 2, file), block.lend(1)
        one = Sequence_("r", 2, 9, rows_of(7, 9))
        slots.begin("r", Wish("key", running=(place,)), 2)
        step(slots, [(one, 3)])
        for _ in range(3):  # each brings a score: 0, 1 and 2
            step(slots, [(one, 1)])
        totals = [folded(scorer, one.rows[2 : 3 + n]).logit - scorer.intercept for n in range(3)]
        slots.tell()
        assert block.read(place, tag("key")) is None
        done |= {1}  # never before the one that came first
        slots.tell()
        assert block.read(place, tag("key")) is None
        done |= {0}
        slots.tell()
        assert block.read(place, tag("key")) == pytest.approx(totals[1], abs=1e-5)
        done |= {2, 3}
        step(slots, [(one, 1)])
        total = folded(scorer, one.rows[2:6]).logit - scorer.intercept
        assert block.read(place, tag("key")) == pytest.approx(total, abs=1e-5)
    finally:
        file.close()


def test_a_row_that_is_not_finite_is_told(scorer):
    slots = Slots(scorer, 1)
    one = Sequence_("r", 1, 4, rows_of(8, 4))
    one.rows[2, 0] = torch.nan
    slots.begin("r", Wish("key"), 1)
    step(slots, [(one, 4)])
    (found,) = slots.take([Take("key", 0, 3)])
    assert found is not None
    assert not unpack(found, scorer).finite


def test_what_is_kept_has_a_score_so_far_and_is_folded_anew_at_the_end(scorer):
    file = RunningFile()
    try:
        block = RunningBlock(file.path, file.block())
        slots, (place,) = Slots(scorer, 2, file), block.lend(1)
        one = Sequence_("r", 2, 82, rows_of(9, 82))
        slots.begin("r", Wish("key", keep=True, running=(place,)), 2)
        step(slots, [(one, 2)])
        for _ in range(80):
            step(slots, [(one, 1)])
        expected = folded(scorer, one.rows[2:81])
        assert block.read(place, tag("key")) == pytest.approx(expected.logit - scorer.intercept, abs=1e-9)
        (found,) = slots.take([Take("key", 0, 30, skip=7)])
        assert_equal(found, scorer, folded(scorer, one.rows[9:39]))
    finally:
        file.close()
