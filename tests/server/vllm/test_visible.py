"""Which tokens make a text, however vLLM's parsers and stop strings cut it out of what was generated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from groundwire.prompts import tokenize_response
from groundwire.server.vllm.visible import Visible, visible
from groundwire.types import Token
from tests.server.vllm.conftest import BAD, EOS, GOOD

LETTERS = "ab Zü京🌍\n.89"


@pytest.fixture
def tokenizer(identity) -> Any:
    return identity.tokenizer


def ids_of(tokenizer: Any, *parts: str) -> list[int]:
    """Ids of a text whose parts are tokenised apart."""
    return [token for part in parts for token in tokenizer(part)["input_ids"]]


def spelled(tokens: tuple[Token, ...], text: str) -> list[str]:
    return [text[token.start : token.end] for token in tokens]


class Blind:
    """A tokenizer that decodes nothing."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, *args: Any, **more: Any) -> Any:
        return self._tokenizer(*args, **more)


@pytest.mark.parametrize("text", [GOOD, BAD, "Zürich 🌍 東京", ""])
def test_ids_that_the_text_itself_gives_are_not_decoded(tokenizer, text):
    wanted = Visible(tuple(tokenize_response(tokenizer, text)))
    assert visible(Blind(tokenizer), ids_of(tokenizer, text), text) == wanted
    assert visible(Blind(tokenizer), [*ids_of(tokenizer, text), EOS, 60], text) == wanted


def test_tokens_that_the_text_itself_would_not_give(tokenizer):
    ids = ids_of(tokenizer, "It was fin", "ished i", "n 1889.")
    assert ids != ids_of(tokenizer, GOOD)
    found = visible(tokenizer, ids, GOOD)
    assert found is not None
    assert ([token.id for token in found.tokens], found.skip) == (ids, 0)
    assert "".join(spelled(found.tokens, GOOD)) == GOOD


def test_a_token_that_a_stop_string_cut_counts(tokenizer):
    found = visible(tokenizer, ids_of(tokenizer, GOOD), "It was fin")
    assert found is not None
    assert spelled(found.tokens, "It was fin") == ["It", " was", " fin"]
    assert [token.id for token in found.tokens] == ids_of(tokenizer, GOOD)[:3]


@pytest.mark.parametrize("between", ["</think>\n\n", "</think>", "<|im_start|>\n"])
def test_what_comes_before_the_answer_is_skipped(tokenizer, between):
    before = ids_of(tokenizer, "It is Zion, no: 1889.", between)
    found = visible(tokenizer, [*before, *ids_of(tokenizer, GOOD), *ids_of(tokenizer, "\n"), EOS], GOOD)
    assert found == Visible(tuple(tokenize_response(tokenizer, GOOD)), skip=len(before))


def test_white_space_that_a_parser_took_away_is_part_of_a_token(tokenizer):
    found = visible(tokenizer, ids_of(tokenizer, " in 1889."), "in 1889.")
    assert found is not None
    assert (spelled(found.tokens, "in 1889."), found.skip) == (["in", " 1889", "."], 0)


def test_all_tokens_of_a_character_are_seen_with_it(tokenizer):
    ids = [*ids_of(tokenizer, "x"), *ids_of(tokenizer, "🌍ü")]
    assert len(ids) == 1 + 4 + 2
    found = visible(tokenizer, ids, "🌍")
    assert found is not None
    assert [(token.id, token.start, token.end) for token in found.tokens] == [(token, 0, 1) for token in ids[1:5]]
    assert found.skip == 1


@pytest.mark.parametrize("text", ["It was finished in Lisbon.", "it was", f"{GOOD} It is high."])
def test_a_text_that_was_not_generated_is_not_there(tokenizer, text):
    assert visible(tokenizer, ids_of(tokenizer, GOOD), text) is None
    assert visible(tokenizer, [], text) is None


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(LETTERS, max_size=8), max_size=5), st.integers(0, 40), st.integers(1, 40))
def test_every_token_of_a_part_is_found_and_no_other(tokenizer, parts, first, length):
    whole, ids = "".join(parts), ids_of(tokenizer, *parts)
    text = whole[first : first + length]
    assume(text)
    found = visible(tokenizer, ids, text)
    assert found is not None
    start = 0 if whole.startswith(text) else whole.rfind(text)
    begin, end = len(whole[:start].encode()), len(whole[: start + len(text)].encode())
    places, at = [], 0  # of each token's bytes
    for token in ids:
        size = len(tokenizer.convert_ids_to_tokens(token))  # byte-level: a letter for each byte
        places.append((at, at + size))
        at += size
    overlapping = [i for i, (left, right) in enumerate(places) if left < end and right > begin]
    shown = range(found.skip, found.skip + len(found.tokens))
    assert [token.id for token in found.tokens] == [ids[i] for i in shown]
    assert overlapping == list(shown)
    covered = {i for token in found.tokens for i in range(token.start, token.end)}
    assert covered == set(range(len(text)))
    for i, token in zip(shown, found.tokens, strict=True):
        own = text.encode()[max(places[i][0] - begin, 0) : max(places[i][1] - begin, 0)]
        assert not own or own in text[token.start : token.end].encode()
    assert [token.start for token in found.tokens] == sorted(token.start for token in found.tokens)


def test_an_answer_that_its_reasoning_begins_with_is_the_last_of_the_two(tokenizer):
    before = ids_of(tokenizer, GOOD, " So Lisbon it is.", "</think>\n\n")
    ids = [*before, *ids_of(tokenizer, GOOD)]
    found = visible(tokenizer, ids, GOOD, last=True)
    assert found is not None
    assert (found.skip, "".join(spelled(found.tokens, GOOD))) == (len(before), GOOD)
    assert visible(tokenizer, ids, GOOD) == Visible(tuple(tokenize_response(tokenizer, GOOD)))
