"""From sampled token ids to visible text: incomplete characters and possible stop strings are held back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.types import Sampling, Token

NUCLEUS = 1024  # tokens in which a nucleus is looked for before the whole vocabulary is sorted


def sample(logits: Float[Tensor, " vocabulary"], sampling: Sampling, generator: torch.Generator | None) -> int:
    """One token id: the largest logit at temperature 0, else drawn from the nucleus of mass `top_p`.

    generator: on the device of the logits; None draws from torch's own.
    """
    if sampling.temperature <= 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, indices = probabilities.topk(min(NUCLEUS, len(logits)))
        if float(ordered.sum()) < sampling.top_p:
            ordered, indices = probabilities.sort(descending=True)
        ordered[1:][ordered.cumsum(0)[:-1] >= sampling.top_p] = 0  # the first token always stays
        probabilities = torch.zeros_like(probabilities).scatter(0, indices, ordered)
    # One random number and a search: torch.multinomial draws a number for every entry of the vocabulary.
    cumulated = probabilities.cumsum(0)
    drawn = 1 - torch.rand((), dtype=cumulated.dtype, device=logits.device, generator=generator)  # never 0
    return min(int(torch.searchsorted(cumulated, drawn * cumulated[-1])), len(logits) - 1)


def log_probability(
    logits: Float[Tensor, " vocabulary"], token_id: int, top: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Natural log-probability of a token, before temperature and nucleus, and those of the `top` likeliest tokens."""
    logs = torch.log_softmax(logits.float(), dim=-1)
    values, ids = logs.topk(min(top, len(logs)))
    return float(logs[token_id]), tuple(zip(ids.tolist(), values.tolist(), strict=True))


@dataclass
class TextStream:
    """Text of one response as it grows.

    `push` takes a sampled id and gives back the text and tokens that are now certain to be part of the response;
    `close` gives back the rest. `stopped` is set when a stop string was found: it and what follows are not visible.
    """

    tokenizer: Any
    stop: Sequence[str] = ()
    text: str = ""  # released
    stopped: bool = False
    _ids: list[int] = field(default_factory=list)
    _prefix: int = 0  # ids from here give the context that decoding needs
    _read: int = 0  # ids before this are in _held or released
    _held: str = ""  # decoded, perhaps the start of a stop string
    _waiting: list[Token] = field(default_factory=list)  # tokens of _held

    def push(self, token_id: int) -> tuple[str, tuple[Token, ...]]:
        """Add a sampled id; return what became visible."""
        self._ids.append(token_id)
        self._decode(final=False)
        return self._release(final=False)

    def close(self) -> tuple[str, tuple[Token, ...]]:
        """The answer is over: return all that was held back (an incomplete character as U+FFFD)."""
        if self.stopped:
            return "", ()
        self._decode(final=True)
        return self._release(final=True)

    def _decode(self, *, final: bool) -> None:
        known = self._text_of(self._ids[self._prefix : self._read])
        longer = self._text_of(self._ids[self._prefix :])
        if not final and (longer.endswith("\ufffd") or len(longer) < len(known)):
            return
        delta = longer[len(known) :]
        start = len(self.text) + len(self._held)
        new = self._ids[self._read :]
        self._waiting += [Token(i, start, start + len(delta)) for i in new]
        self._held += delta
        self._prefix, self._read = self._read, len(self._ids)

    def _release(self, *, final: bool) -> tuple[str, tuple[Token, ...]]:
        found = [(at + len(s), at) for s in self.stop if s and (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            length = min(found)[1]  # the one complete first, so that it does not matter how tokens cut the text
        else:
            length = len(self._held) if final else len(self._held) - self._possible_stop()
        text, self._held = self._held[:length], self._held[length:]
        self.text += text
        end = len(self.text)
        # Tokens are in order, so those that are ready come first. A token that begins before a stop string is visible,
        # cut where the text is cut.
        ready = sum(t.start < end if self.stopped else t.end <= end for t in self._waiting)
        tokens, self._waiting = self._waiting[:ready], self._waiting[ready:]
        return text, tuple(Token(t.id, t.start, min(t.end, end)) for t in tokens)

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that could grow into a stop string."""
        lengths = (
            n for s in self.stop for n in range(min(len(s) - 1, len(self._held)), 0, -1) if self._held.endswith(s[:n])
        )
        return max(lengths, default=0)

    def _text_of(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
