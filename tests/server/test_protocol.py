from __future__ import annotations

import pytest
from pydantic import ValidationError

from groundwire.server.protocol import SEEDS
from groundwire.server.protocol_completion import CompletionRequest
from groundwire.types import Sampling


def request(**fields: object) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": "p", **fields})


def test_defaults_are_those_of_openai():
    assert request().sampling(0, 256) == Sampling(256, 1.0, 1.0, None, (), None)
    assert request().choices == 1
    assert request(n=None, temperature=None, top_p=None, stop=None, seed=None) == request()


def test_sampling_holds_what_was_asked():
    body = request(max_tokens=7, temperature=0, top_p=0.5, seed=3, stop=["a", "b"], logprobs=2)
    assert body.sampling(0, 256) == Sampling(7, 0.0, 0.5, 3, ("a", "b"), 2)


def test_every_choice_has_a_seed_of_its_own():
    assert [request(seed=5, n=3).sampling(i, 1).seed for i in range(3)] == [5, 6, 7]
    assert request(seed=SEEDS - 1).sampling(1, 1).seed == 0
    assert request().sampling(1, 1).seed is None


def test_one_stop_string_is_a_list_of_one():
    assert request(stop="END").stop == ["END"]
    assert request(stop=[]).sampling(0, 1).stop == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 0},
        {"n": "2"},
        {"n": True},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": -0.1},
        {"max_tokens": -5},
        {"max_tokens": 0},
        {"seed": SEEDS},
        {"stop": ""},
        {"stop": list("abcde")},
        {"stop": 3},
        {"stream": "yes"},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -1},
        {"logit_bias": {"5": 1}},
        {"user": 7},
        {"stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": {"include_obfuscation": True}},
        {"hallucination": []},
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields):
    with pytest.raises(ValidationError) as refused:
        request(**fields)
    assert refused.value.errors()[0]["loc"][0] == list(fields)[-1]


def test_what_is_not_used_may_stand_at_its_neutral_value():
    body = request(frequency_penalty=0, presence_penalty=0.0, logit_bias={}, stream=True, stream_options={})
    assert not body.include_usage
    assert request(stream=True, stream_options={"include_usage": True}).include_usage


def test_options_have_defaults():
    assert request(hallucination=None).options == request().options
    assert request(hallucination={"tokens": True}).options.tokens
