"""Which of the tokens that vLLM generated make the text that the client sees, and where in it each stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groundwire.engines.decoding import TextStream
from groundwire.prompts import tokenize_response
from groundwire.types import Token


@dataclass(frozen=True)
class Visible:
    """Tokens of a text; `skip` generated ones come before them (reasoning)."""

    tokens: tuple[Token, ...]
    skip: int = 0


def visible(tokenizer: Any, ids: Sequence[int], text: str, *, last: bool = False) -> Visible | None:
    """The tokens of `text` among `ids`; None where it is not part of what they say.

    What vLLM's parsers leave out (reasoning, white space around it) may stand before and after it. A token of which a
    part is visible counts. last: the text is the last place that says so, not the first: reasoning comes before it.
    """
    if not last:
        known = tokenize_response(tokenizer, text)
        if [token.id for token in known] == list(ids[: len(known)]):  # as nearly always: one call says it all
            return Visible(tuple(known))
    stream = TextStream(tokenizer)
    tokens: list[Token] = []
    for token_id in ids:
        tokens += stream.push(token_id)[1]
    tokens += stream.close()[1]
    start = 0 if stream.text.startswith(text) and not last else stream.text.rfind(text)
    if start < 0:
        return None
    end = start + len(text)
    skip = sum(token.end <= start and token.start < start for token in tokens)
    own = [token for token in tokens[skip:] if token.start < end]
    return Visible(tuple(Token(t.id, max(t.start, start) - start, min(t.end, end) - start) for t in own), skip)
