"""A public fake: a deterministic engine and detector without a model, for tests of what is built on Groundwire.

Its tokens are words. The first dimension of its residual rows is 1 where a word of the response does not occur in the
prompt, the second where it does, the others are noise that depends on the word alone. `fake_detector` therefore flags
answers with words that are not in their passages, marks the first such word and names the term: nothing is canned.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.additive import Shapes
from groundwire.artifact import PROBE_TEXT, Artifact, Probe
from groundwire.detector import Detector
from groundwire.engines.base import Asked, check_new
from groundwire.engines.decoding import TextStream
from groundwire.errors import PromptTooLong
from groundwire.prompts import render
from groundwire.sae import SparseEncoder
from groundwire.scoring import Scorer
from groundwire.spans import SpanRule
from groundwire.types import FinishReason, Readout, Request, Step, Term, Token, TokenLogprob

D_MODEL = 8
CONTEXT = 2048
HOOKPOINT = "model.layers.0"


class FakeTokenizer:
    """Words (with the white space before them) as tokens; ids are handed out as words are first seen."""

    chat_template: str | None = "fake"
    eos_token_id = 0

    def __init__(self) -> None:
        self._words: list[str] = ["<end>"]
        self._ids: dict[str, int] = {}

    def __call__(
        self, text: str, add_special_tokens: bool = False, return_offsets_mapping: bool = False, **_: Any
    ) -> dict[str, Any]:
        matches = list(re.finditer(r"\s*(?:\w+|[^\w\s])|\s+", text))
        encoded: dict[str, Any] = {"input_ids": [self._id(m.group()) for m in matches]}
        return encoded | ({"offset_mapping": [m.span() for m in matches]} if return_offsets_mapping else {})

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], **_: Any) -> str:
        return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant:"

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(self._words[i] for i in ids if i != self.eos_token_id)

    def word(self, token_id: int) -> str:
        return self._words[token_id].strip().lower()

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]


class FakeEngine:
    """Answers each request with `answers[question]` where the last message contains that question, else by repeating
    the beginning of the prompt. Rows are a pure function of prompt and response."""

    model_id = "fake"
    hookpoint = HOOKPOINT
    context = CONTEXT
    fingerprint: Mapping[str, str] = {"tokenizer": "fake", "chat_template": "fake"}

    def __init__(self, answers: Mapping[str, str] | None = None) -> None:
        self.answers = dict(answers or {})
        self.tokens_read = 0
        self.tokenizer = FakeTokenizer()
        self.tokenizer(PROBE_TEXT)  # first, so that its ids are the same in every engine and saved artifacts fit

    def begin(self, scorer: Scorer) -> FakeGeneration:
        """See `Engine.begin`."""
        return FakeGeneration(self, scorer)

    def generate(self, requests: Sequence[Request], scorer: Scorer) -> Iterator[tuple[str, Step]]:
        """See `Engine.generate`; requests advance in turn, a word each."""
        generation = self.begin(scorer)
        for request in requests:
            generation.add(request)
        while len(generation):
            yield from generation.step()

    def replay(self, asked: Sequence[Asked], scorer: Scorer, *, features: bool = False) -> list[list[Readout]]:
        """See `Engine.replay`."""
        return [[self._replay(each.prompt, ids, scorer, features) for ids in each.responses] for each in asked]

    def _replay(self, prompt: Sequence[int], ids: Sequence[int], scorer: Scorer, features: bool) -> Readout:
        self.check_length(len(prompt) + len(ids))
        self.tokens_read += len(ids)
        found = scorer.encode(self.rows(prompt, ids))
        state = scorer.fold(scorer.new_state(1), found, torch.zeros(len(ids), dtype=torch.long))
        return replace(scorer.finish(state, 0), features=found if features else None)

    def read(self, ids: Sequence[int]) -> Float[Tensor, "tokens d"]:
        """See `Engine.read`."""
        return self.rows([], ids)

    def stream(self, request: Request, prompt: Sequence[int], scorer: Scorer) -> Iterator[Step]:
        """The steps of one request, a word each."""
        answer = self.tokenizer(self._answer(request))["input_ids"]
        ids = answer[: request.sampling.max_tokens]
        stream = TextStream(self.tokenizer, request.sampling.stop)
        folding = _Folding(self, scorer, prompt, request)
        text, tokens = "", tuple[Token, ...]()
        for token_id in ids:
            text, tokens = stream.push(token_id)
            if stream.stopped:
                break
            yield folding.step(text, tokens, None)
            text, tokens = "", ()
        rest, more = stream.close()
        reason: FinishReason = "stop" if stream.stopped or len(answer) < request.sampling.max_tokens else "length"
        yield folding.step(text + rest, (*tokens, *more), reason)

    def _answer(self, request: Request) -> str:
        asked = request.messages[-1]["content"]
        for question, answer in self.answers.items():
            if question in asked:
                return answer
        return " ".join(asked.split()[:12])

    def rows(self, prompt: Sequence[int], response: Sequence[int]) -> Float[Tensor, "tokens d"]:
        """Residual rows of a response's tokens."""
        known = {self.tokenizer.word(i) for i in prompt}
        return (
            torch.stack([self._row(self.tokenizer.word(i), known) for i in response])
            if response
            else torch.zeros(0, D_MODEL)
        )

    def _row(self, word: str, known: set[str]) -> Float[Tensor, " d"]:
        absent = float(word.isalnum() and word not in known)
        noise = hashlib.sha256(word.encode()).digest()[: D_MODEL - 2]
        return torch.tensor([absent, 1 - absent, *(byte / 255 for byte in noise)])

    def check_length(self, tokens: int) -> None:
        """Raises PromptTooLong where so many tokens exceed the context."""
        if tokens > self.context:
            raise PromptTooLong(f"{tokens} tokens", expected=f"at most {self.context}", remedy="send less")


class FakeGeneration:
    """See `engines.base.Generation`."""

    def __init__(self, engine: FakeEngine, scorer: Scorer) -> None:
        self._engine, self._scorer = engine, scorer
        self._streams: dict[str, Iterator[Step]] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, request: Request) -> int:
        """See `engines.base.Generation.add`."""
        check_new(request, self._streams)
        prompt = render(self._engine.tokenizer, request.messages)
        self._engine.check_length(len(prompt) + request.sampling.max_tokens)
        self._streams[request.id] = self._engine.stream(request, prompt, self._scorer)
        return len(prompt)

    def drop(self, request_id: str) -> None:
        """See `engines.base.Generation.drop`."""
        self._streams.pop(request_id, None)

    def step(self) -> list[tuple[str, Step]]:
        """See `engines.base.Generation.step`."""
        steps = [(name, next(stream)) for name, stream in self._streams.items()]
        for name, step in steps:
            if step.finish_reason is not None:
                del self._streams[name]
        return steps


class _Folding:
    """Folds one answer's words as they become visible; the last visible one is no input yet."""

    def __init__(self, engine: FakeEngine, scorer: Scorer, prompt: Sequence[int], request: Request) -> None:
        self.engine, self.scorer, self.prompt, self.request = engine, scorer, prompt, request
        self.state, self.visible, self.folded = scorer.new_state(1), list[Token](), 0

    def step(self, text: str, tokens: tuple[Token, ...], over: FinishReason | None) -> Step:
        self.visible += tokens
        last = len(self.visible) - (0 if over else 1)
        due = self.visible[self.folded : max(last, self.folded)] if self.request.check else []
        features = self.scorer.encode(self.engine.rows(self.prompt, [t.id for t in due]))
        self.scorer.fold(self.state, features, torch.zeros(len(features), dtype=torch.long))
        self.folded += len(due)
        logit = self.scorer.logit(self.state, 0) if self.folded and self.request.running else None
        readout = self.scorer.finish(self.state, 0) if over and self.request.check else None
        logprobs = () if self.request.sampling.logprobs is None else tuple(self._certain(t) for t in tokens)
        return Step(text, tokens, features, logit, over, readout, logprobs)

    def _certain(self, token: Token) -> TokenLogprob:
        return TokenLogprob(0.0, ((token.id, 0.0),) if self.request.sampling.logprobs else ())


def fake_detector(answers: Mapping[str, str] | None = None) -> Detector:
    """A detector over a `FakeEngine`: words that are absent from the prompt make an answer unfaithful."""
    engine = FakeEngine(answers)
    terms = (Term("latent", "word absent from the prompt", 0), Term("latent", "word of the prompt", 1))
    # Absent words add 4, words of the prompt take 1 away: a half is passed by one absent word.
    shapes = Shapes(torch.full((2, 1), 0.5), torch.tensor([[0.0, 4.0], [0.0, -1.0]]), torch.zeros(2, 2))
    encoder = SparseEncoder(weight=torch.eye(2, D_MODEL), bias=torch.zeros(2), threshold=None, rectify=False)
    artifact = Artifact(
        id="fake",
        version="1",
        model=engine.model_id,
        fingerprint=engine.fingerprint,
        hookpoint=HOOKPOINT,
        scorer=Scorer(encoder, shapes, intercept=-1.0, token_intercept=-1.0),
        terms=terms,
        thresholds={"balanced_accuracy": 0.5},
        prevalence=0.5,
        spans=SpanRule(),
        probe=Probe.record(engine),
    )
    return Detector(artifact, engine, threshold=0.5)
