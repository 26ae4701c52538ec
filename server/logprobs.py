"""Log-probabilities as OpenAI writes them: per token with its alternatives (chat), or in columns (text completions)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from groundwire.server.events import Piece

LOWEST = -9999.0  # what OpenAI's API writes for no probability at all; JSON has no infinity

Spell = Callable[[int], str]


def chat_logprobs(pieces: Sequence[Piece], spell: Spell) -> dict[str, Any]:
    """The `logprobs` object of a chat choice. Tokens that are parts of one character have no bytes."""
    content = []
    for piece in pieces:
        top = [_entry(spell(token), value) for token, value in piece.logprob.top]
        content.append(_entry(piece.text, piece.logprob.logprob, whole=not piece.shared) | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def text_logprobs(pieces: Sequence[Piece], spell: Spell) -> dict[str, Any]:
    """The `logprobs` object of a text completion's choice; a token itself is among its alternatives."""
    top = []
    for piece in pieces:
        others = {spell(token): _finite(value) for token, value in piece.logprob.top}
        top.append(others | {piece.text: _finite(piece.logprob.logprob)})
    return {
        "tokens": [piece.text for piece in pieces],
        "token_logprobs": [_finite(piece.logprob.logprob) for piece in pieces],
        "top_logprobs": top,
        "text_offset": [piece.token.start for piece in pieces],
    }


def _entry(text: str, logprob: float, *, whole: bool = True) -> dict[str, Any]:
    whole = whole and "\ufffd" not in text  # a byte of a character, spelled alone
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode()) if whole else None}


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)
