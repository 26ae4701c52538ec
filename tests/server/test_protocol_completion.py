from __future__ import annotations

import pytest
from pydantic import ValidationError

from groundwire.server.protocol_completion import CompletionRequest


def request(**fields: object) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": "p", **fields})


def test_one_prompt_or_several():
    assert request(prompt=["a", "b"]).prompt == ["a", "b"]
    assert request(prompt="a").prompt == ["a"]


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2], [3]], ["a", 5]])
def test_token_ids_are_refused_with_the_reason(prompt):
    with pytest.raises(ValidationError, match="token ids are not supported"):
        request(prompt=prompt)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": []},
        {"prompt": None},
        {"prompt": {"a": 1}},
        {"echo": True},
        {"best_of": 2},
        {"suffix": "end"},
        {"logprobs": 6},
        {"logprobs": True},
        {"messages": []},
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields):
    with pytest.raises(ValidationError) as refused:
        request(**fields)
    assert refused.value.errors()[0]["loc"][0] == next(iter(fields))


def test_neutral_values_are_accepted():
    body = request(echo=False, best_of=1, suffix=None, logprobs=0)
    assert body.alternatives == 0
    assert request().alternatives is None
