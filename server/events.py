"""What happens to the choices of a request, in order: pieces of text, then for each choice that it is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from groundwire.server.policies import FinishReason
from groundwire.types import Token, TokenLogprob, TokenScore, Verdict


@dataclass(frozen=True)
class Piece:
    """A token of an answer with its text and log-probability. `shared`: its text is a character that it has in common
    with the token before or after it."""

    token: Token
    text: str
    logprob: TokenLogprob
    shared: bool = False


@dataclass(frozen=True)
class Begun:
    """The choice is being answered."""

    index: int


@dataclass(frozen=True)
class Delta:
    """More text of a choice. logprobs: of the tokens that are complete with it, where asked for. running: the score so
    far."""

    index: int
    text: str
    logprobs: tuple[Piece, ...] = ()
    running: float | None = None


@dataclass(frozen=True)
class Attempt:
    """One of several answers to the same request; `kept` is the one that was sent."""

    text: str
    verdict: Verdict
    kept: bool


@dataclass(frozen=True)
class Done:
    """A choice is complete.

    verdict: None where checking is off. redactions: see `Outcome`. answer: the model's own text, which the verdict's
    offsets count. logprobs: none where that is not the text. attempts: under policy "regenerate", where there were two.
    prompt_tokens: of the request's own prompt. more_prompt_tokens: of what was asked again.
    """

    index: int
    text: str
    finish_reason: FinishReason
    verdict: Verdict | None
    answer: str = ""
    logprobs: tuple[Piece, ...] = ()
    redactions: tuple[tuple[int, int], ...] | None = None
    attempts: tuple[Attempt, ...] = ()
    prompt_tokens: int = 0
    more_prompt_tokens: int = 0
    completion_tokens: int = 0


Event = Begun | Delta | Done


@dataclass(frozen=True)
class Usage:
    """Tokens read and generated for a request. A prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, choices: Iterable[Done], choices_per_prompt: int) -> Usage:
        prompt = completion = 0
        for done in choices:
            first = done.index % choices_per_prompt == 0
            prompt += (done.prompt_tokens if first else 0) + done.more_prompt_tokens
            completion += done.completion_tokens
        return cls(prompt, completion)

    def to_dict(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def pieces(text: str, tokens: Sequence[Token], logprobs: Sequence[TokenLogprob]) -> tuple[Piece, ...]:
    """Tokens of an answer with their texts; `text` is all of the answer so far. None where none were asked for."""
    if not logprobs:
        return ()
    places = [(token.start, token.end) for token in tokens]
    return tuple(
        Piece(
            token,
            text[token.start : token.end],
            logprob,
            places[i] in places[max(0, i - 1) : i] + places[i + 1 : i + 2],
        )
        for i, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True))
    )


def aligned(scores: Sequence[TokenScore], tokens: Sequence[Token], text: str) -> tuple[TokenScore, ...]:
    """One score for each of `tokens`: its own, or where a replay cut the text otherwise, the highest it overlaps."""
    if not scores or not tokens or [(s.start, s.end) for s in scores] == [(t.start, t.end) for t in tokens]:
        return tuple(scores)
    found, first = [], 0
    for token in tokens:
        while first < len(scores) - 1 and scores[first].end <= token.start:
            first += 1
        after = first + 1
        while after < len(scores) and scores[after].start < token.end:
            after += 1
        highest = max(score.score for score in scores[first:after])
        found.append(TokenScore(text[token.start : token.end], token.start, token.end, highest))
    return tuple(found)
