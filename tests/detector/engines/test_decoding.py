"""From ids to text: any tokenisation gives the text back, stop strings cut exactly, and sampling is what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from groundwire.engines.decoding import TextStream, sample
from groundwire.types import Sampling, Token

TEXTS = st.text(max_size=20) | st.text("ab c东🏴é\n", max_size=30) | st.just("built in 1889, says the keeper")
STOPS = st.lists(st.text("ab c东", max_size=4), max_size=3)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_folder) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama_folder)


def tokenise(tokenizer: Any, text: str, data: st.DataObject) -> list[int]:
    """Some tokenisation of `text`: at each byte any token of the vocabulary that fits, characters torn apart or not."""
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    left, ids = "".join(piece for piece, _ in pieces), []
    vocabulary, special = tokenizer.get_vocab(), set(tokenizer.all_special_tokens)
    while left:
        fitting = [left[:n] for n in range(1, 10) if left[:n] in vocabulary and left[:n] not in special]
        token = data.draw(st.sampled_from(sorted(set(fitting), key=len)))
        ids.append(vocabulary[token])
        left = left[len(token) :]
    return ids


def run(stream: TextStream, ids: list[int]) -> tuple[list[str], list[Token]]:
    """All that became visible, push by push; ends where a stop string was found, as a generation does."""
    texts, tokens = [], []
    for token_id in ids:
        text, new = stream.push(token_id)
        texts.append(text)
        tokens += new
        assert stream.text == "".join(texts)
        if stream.stopped:
            break
    text, new = stream.close()
    return [*texts, text], [*tokens, *new]


@settings(deadline=None)
@given(TEXTS, st.data())
def test_any_tokenisation_gives_the_text_back(tokenizer, text, data):
    ids = tokenise(tokenizer, text, data)
    texts, tokens = run(TextStream(tokenizer), ids)
    assert "".join(texts) == text
    assert [t.id for t in tokens] == ids
    assert sorted({i for t in tokens for i in range(t.start, t.end)}) == list(range(len(text)))
    assert [t.start for t in tokens] == sorted(t.start for t in tokens)
    assert all(0 <= t.start < t.end <= len(text) for t in tokens)


@settings(deadline=None)
@given(TEXTS, STOPS, st.data())
def test_the_text_ends_where_the_first_stop_string_begins(tokenizer, text, stops, data):
    """The first to be complete, the longer of two that end together: the same however tokens cut the text."""
    ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s and s in text]
    cut = min(ends)[1] if ends else len(text)
    ids = tokenise(tokenizer, text, data)
    stream = TextStream(tokenizer, stops)
    texts, tokens = run(stream, ids)
    assert "".join(texts) == text[:cut]
    assert stream.stopped == bool(ends)
    whole = run(TextStream(tokenizer), ids)[1]
    assert tokens == [Token(t.id, t.start, min(t.end, cut)) for t in whole if t.start < cut]


@settings(deadline=None)
@given(TEXTS, st.data())
def test_text_is_held_back_no_longer_than_it_could_be_a_stop_string(tokenizer, text, data):
    stop = data.draw(st.text("ab c", min_size=1, max_size=4))
    stream, released = TextStream(tokenizer, [stop]), ""
    for i, token_id in enumerate(ids := tokenise(tokenizer, text, data)):
        released += stream.push(token_id)[0]
        if stream.stopped:
            return
        known = tokenizer.decode(ids[: i + 1])
        if not known.endswith("\ufffd"):
            assert stop.startswith(known[len(released) :])


def test_what_turns_out_not_to_be_a_stop_string_is_released(tokenizer):
    stream = TextStream(tokenizer, ["\n\nUser"])
    seen = [stream.push(i)[0] for i in tokenizer("1889\n\nUst", add_special_tokens=False)["input_ids"]]
    assert "".join(seen) == "1889\n\nUst"
    assert not any(text.endswith(("\n", "U", "Us")) for text in seen)
    assert not stream.stopped


def test_a_stop_string_inside_a_token_cuts_it(tokenizer):
    (token_id,) = tokenizer(" passages", add_special_tokens=False)["input_ids"]
    stream = TextStream(tokenizer, ["sag"])
    assert stream.push(token_id) == (" pas", (Token(token_id, 0, 4),))
    assert stream.stopped
    assert stream.close() == ("", ())


def test_the_stop_string_that_is_complete_first_wins_however_tokens_cut_the_text(tokenizer):
    whole = tokenizer(" passages", add_special_tokens=False)["input_ids"]
    letters = [i for letter in " passages" for i in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    assert len(whole) < len(letters)
    for ids in (whole, letters):
        assert "".join(run(TextStream(tokenizer, [" passages", "ass"]), ids)[0]) == " p"


def test_the_parts_of_a_character_come_together(tokenizer):
    ids = tokenizer("🏴", add_special_tokens=False)["input_ids"]
    stream = TextStream(tokenizer)
    assert len(ids) == 4
    assert [stream.push(i) for i in ids[:3]] == [("", ())] * 3
    assert stream.push(ids[3]) == ("🏴", tuple(Token(i, 0, 1) for i in ids))


def test_an_incomplete_character_is_shown_at_the_end(tokenizer):
    first, *_ = tokenizer("🏴", add_special_tokens=False)["input_ids"]
    stream = TextStream(tokenizer)
    assert stream.push(first) == ("", ())
    assert stream.close() == ("\ufffd", (Token(first, 0, 1),))
    assert stream.close() == ("", ())


def test_an_empty_answer_is_empty(tokenizer):
    assert TextStream(tokenizer, ["x"]).close() == ("", ())


LOGITS = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()  # with temperature 1 these are the probabilities


def draws(sampling: Sampling, seed: int = 0, number: int = 300) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [sample(LOGITS, sampling, generator) for _ in range(number)]


def test_temperature_zero_takes_the_largest():
    assert sample(LOGITS, Sampling(temperature=0.0, top_p=0.1, seed=3), None) == 1


@pytest.mark.parametrize(
    ("top_p", "nucleus"),
    [(0.0, {1}), (0.39, {1}), (0.6, {1, 3}), (0.75, {1, 2, 3}), (0.95, {0, 1, 2, 3}), (1.0, {0, 1, 2, 3})],
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p, nucleus):
    assert set(draws(Sampling(temperature=1.0, top_p=top_p))) == nucleus


@pytest.mark.parametrize("nucleus", [1, 2])
def test_a_nucleus_wider_than_what_is_looked_at_first_is_found_all_the_same(monkeypatch, nucleus):
    whole = [draws(Sampling(temperature=1.0, top_p=p, seed=3), 50) for p in (0.3, 0.6, 0.95)]
    monkeypatch.setattr("groundwire.engines.decoding.NUCLEUS", nucleus)
    assert [draws(Sampling(temperature=1.0, top_p=p, seed=3), 50) for p in (0.3, 0.6, 0.95)] == whole


def test_draws_are_as_frequent_as_they_are_probable():
    found = draws(Sampling(temperature=1.0), number=4000)
    for token, probability in enumerate(LOGITS.exp().tolist()):
        assert found.count(token) / 4000 == pytest.approx(probability, abs=0.03)  # four standard deviations


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_range_draw_no_impossible_token(monkeypatch, uniform):
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(uniform, dtype=torch.float64))
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf])
    assert sample(logits, Sampling(temperature=1.0), None) == (3 if uniform == 0 else 1)


def test_a_seed_repeats_its_draws():
    sampling = Sampling(temperature=1.0, seed=1)
    assert draws(sampling, 1) == draws(sampling, 1) != draws(sampling, 2)
    assert 0 <= sample(LOGITS, sampling, None) < 4


def test_temperature_flattens_and_sharpens():
    counts = [draws(Sampling(temperature=t)).count(1) for t in (0.1, 1.0, 100.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 280  # 0.4**10 against 0.3**10
    assert counts[2] < 120  # nearly a quarter of 300
