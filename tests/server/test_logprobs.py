from __future__ import annotations

import math

from groundwire.server.events import Piece
from groundwire.server.logprobs import LOWEST, chat_logprobs, text_logprobs
from groundwire.types import Token, TokenLogprob

WORDS = {1: "a", 2: " b", 3: "\ufffd"}
PIECES = (
    Piece(Token(1, 0, 1), "a", TokenLogprob(-0.5, ((1, -0.5), (2, -1.5)))),
    Piece(Token(2, 1, 3), " b", TokenLogprob(-math.inf, ((1, -0.1), (3, -2.0)))),
)


def test_chat_lists_tokens_with_their_alternatives():
    found = chat_logprobs(PIECES, WORDS.__getitem__)
    first, second = found["content"]
    assert first == {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": " b", "logprob": -1.5, "bytes": [32, 98]},
        ],
    }
    assert second["logprob"] == LOWEST
    assert second["top_logprobs"][1]["bytes"] is None
    assert found["refusal"] is None


def test_a_part_of_a_character_has_no_bytes():
    piece = Piece(Token(3, 0, 1), "🙂", TokenLogprob(-1.0), shared=True)
    assert chat_logprobs([piece], WORDS.__getitem__)["content"][0]["bytes"] is None


def test_text_has_columns():
    assert text_logprobs(PIECES, WORDS.__getitem__) == {
        "tokens": ["a", " b"],
        "token_logprobs": [-0.5, LOWEST],
        "top_logprobs": [{"a": -0.5, " b": -1.5}, {"a": -0.1, "\ufffd": -2.0, " b": LOWEST}],
        "text_offset": [0, 1],
    }
