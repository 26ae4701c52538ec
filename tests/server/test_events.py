from __future__ import annotations

from groundwire.server.events import Done, Usage, aligned, pieces
from groundwire.types import Token, TokenLogprob, TokenScore


def done(index: int, **given: int) -> Done:
    return Done(index, "a", "stop", None, **given)  # type: ignore[arg-type]


def test_a_prompt_counts_once_for_all_its_choices():
    choices = [done(i, prompt_tokens=10 if i < 2 else 30, completion_tokens=i + 1) for i in range(4)]
    usage = Usage.of(choices, choices_per_prompt=2)
    assert usage.to_dict() == {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50}


def test_what_is_asked_again_counts_for_every_choice():
    choices = [done(i, prompt_tokens=10, more_prompt_tokens=20, completion_tokens=1) for i in range(2)]
    assert Usage.of(choices, choices_per_prompt=2) == Usage(50, 2)


def test_pieces_have_their_text_and_know_what_they_share():
    tokens = [Token(1, 0, 2), Token(2, 2, 3), Token(3, 2, 3), Token(4, 3, 5)]
    found = pieces("ab🙂cd", tokens, [TokenLogprob(-1.0)] * 4)
    assert [piece.text for piece in found] == ["ab", "🙂", "🙂", "cd"]
    assert [piece.shared for piece in found] == [False, True, True, False]
    assert pieces("ab", tokens[:1], []) == ()


def test_scores_of_the_same_tokens_stay():
    scores = (TokenScore("ab", 0, 2, 0.1), TokenScore("c", 2, 3, 0.9))
    assert aligned(scores, [Token(1, 0, 2), Token(2, 2, 3)], "abc") == scores
    assert aligned(scores, [], "abc") == scores


def test_scores_of_other_tokens_are_brought_to_these():
    scores = [TokenScore("abc", 0, 3, 0.2), TokenScore("d", 3, 4, 0.7), TokenScore("ef", 4, 6, 0.4)]
    tokens = [Token(1, 0, 1), Token(2, 1, 4), Token(3, 4, 5), Token(4, 5, 6)]
    found = aligned(scores, tokens, "abcdef")
    assert [(t.token, t.score) for t in found] == [("a", 0.2), ("bcd", 0.7), ("e", 0.4), ("f", 0.4)]


def test_nothing_scored_aligns_to_nothing():
    assert aligned([], [Token(1, 0, 1)], "a") == ()
