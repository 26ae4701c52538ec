"""What is asked of both servers: the same prompts and lengths, and no prompt twice of the same server."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from groundwire.prompts import grounded_messages, render
from groundwire.types import Passage

PER_PASSAGE = 4  # sentences
QUESTION = "Write a very long story about these works, and about the people who built them."
WORKS = ("bridge", "lighthouse", "railway", "harbour", "tunnel", "observatory", "mill", "canal", "library", "dam")
PLACES = ("Praia", "Lisbon", "Tarvik", "Oban", "Ghent", "Aveiro", "Riga", "Como", "Split", "Cork")
NAMES = ("Ana Dias", "Ole Lund", "Mary Keane", "Jan de Wit", "Rosa Conti", "Ivo Petrov", "Eva Horn", "Tom Reed")
MANNERS = ("in heavy rain", "after a long dispute", "with borrowed money", "before the war", "in only two years")


LENGTH, ITSELF = "length", "itself"  # what ends an answer
CERTAIN = 100  # a bias, in log-odds


@dataclass(frozen=True)
class Ask:
    """One request. tokens: of its answer, one that only ends it included. eos: what it is to end with; None where its
    length ends it. at: seconds after the first one, where requests come by themselves."""

    number: int
    content: str
    passages: tuple[str, ...]
    tokens: int
    eos: int | None = None
    at: float = 0.0

    def body(self, model: str, *, checked: bool) -> dict[str, Any]:
        """The request as it is sent; the stock server gets the same without our field."""
        return {
            "model": model,
            "messages": [{"role": "user", "content": self.content}],
            **self._length(),
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"hallucination": {"passages": list(self.passages), "policy": "annotate"}} if checked else {}),
        }

    def _length(self) -> dict[str, Any]:
        """What makes it exactly so long. The end of the text is forbidden until its turn, and certain then."""
        if self.eos is None:
            return {"max_tokens": self.tokens, "ignore_eos": True}
        bias = {str(self.eos): CERTAIN}
        return {"max_tokens": self.tokens + 1, "min_tokens": self.tokens - 1, "logit_bias": bias}


@dataclass(frozen=True)
class Load:
    """So many streams at once, each sending its next request when it has its answer; or requests that come at a rate.

    requests: in one round, of all streams together. ends: what ends the answers.
    """

    requests: int
    streams: int | None = None
    rate: float | None = None
    ends: str = LENGTH

    @property
    def shown(self) -> str:
        return f"{self.streams} streams" if self.streams is not None else f"{self.rate:g} requests/s"


def loads(
    streams: Sequence[int], rates: Sequence[float], ends: Sequence[str], *, turns: int, requests: int
) -> list[Load]:
    """The loads of a run. turns: requests of each stream. requests: of each rate."""
    return [
        *(Load(number * turns, streams=number, ends=end) for number in streams for end in ends),
        *(Load(requests, rate=rate, ends=end) for rate in rates for end in ends),
    ]


class Asks:
    """Makes requests, each of its own number. prompt: about how many tokens; answers have half to one and a half of
    `answer`."""

    def __init__(self, tokenizer: Any, *, prompt: int, answer: int) -> None:
        self._tokenizer, self._prompt, self._answer = tokenizer, prompt, answer
        self._numbers = count(1)

    def next(self, load: Load) -> list[Ask]:
        """Those of one round."""
        eos = self._tokenizer.eos_token_id if load.ends == ITSELF else None
        asks = [self._ask(next(self._numbers), eos) for _ in range(load.requests)]
        if load.rate is None:
            return asks
        times = arrivals(load.rate, len(asks), seed=asks[0].number)
        return [replace(one, at=at) for one, at in zip(asks, times, strict=True)]

    def _ask(self, number: int, eos: int | None) -> Ask:
        chance = random.Random(number)
        passages = self._passages(chance)
        (message,) = grounded_messages(QUESTION, [Passage(text) for text in passages])
        length = max(4, round(self._answer * chance.uniform(0.5, 1.5)))
        return Ask(number, message["content"], passages, length, eos)

    def _passages(self, chance: random.Random) -> tuple[str, ...]:
        found = [""]
        left = self._prompt - len(render(self._tokenizer, grounded_messages(QUESTION, [Passage("")])))
        for i, sentence in enumerate(sentences(chance)):
            left -= len(self._tokenizer(sentence, add_special_tokens=False)["input_ids"]) + 1
            if i and left < 0:
                break
            if i and i % PER_PASSAGE == 0:
                found.append("")
            found[-1] += f" {sentence}" if found[-1] else sentence
        return tuple(found)


def sentences(chance: random.Random) -> Iterator[str]:
    """Made-up facts without end; two prompts share next to none."""
    while True:
        work, place, name = chance.choice(WORKS), chance.choice(PLACES), chance.choice(NAMES)
        year, size = chance.randint(1700, 1999), chance.randint(10, 9999)
        yield f"The {work} of {place}, {size} metres long, was finished by {name} in {year}, {chance.choice(MANNERS)}."


def arrivals(rate: float, number: int, *, seed: int) -> list[float]:
    """When requests of a Poisson process come, in seconds; the first at 0."""
    chance, times = random.Random(seed), [0.0]
    for _ in range(number - 1):
        times.append(times[-1] + chance.expovariate(rate))
    return times
