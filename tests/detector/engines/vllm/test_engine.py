"""The offline engine where vLLM is not installed; with it, in tests/vllm."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from groundwire.engines.base import Asked, Engine
from groundwire.engines.reader import identify
from groundwire.engines.vllm.engine import VllmEngine, first_of, tokens_of
from groundwire.engines.vllm.replay import NoGeneration
from groundwire.errors import InputError, MissingExtra, PromptTooLong
from groundwire.types import Request


@pytest.fixture
def engine(tiny_llama_folder):
    config = SimpleNamespace(max_model_len=32, dtype="torch.bfloat16")
    llm = SimpleNamespace(llm_engine=SimpleNamespace(model_config=config))
    return VllmEngine(llm, identify(tiny_llama_folder), "model.layers.2")


def test_it_is_an_engine(engine):
    assert isinstance(engine, Engine)
    assert (engine.model_id, engine.context, engine.dtype) == ("tiny-llama", 31, "vllm bfloat16")


def test_what_does_not_fit_is_refused_before_it_is_read(engine, scorer):
    with pytest.raises(PromptTooLong, match="at most 31 together"):
        engine.replay([Asked(list(range(30)), [[1, 2]])], scorer)
    with pytest.raises(PromptTooLong):
        engine.read(list(range(32)))


def test_it_generates_nothing(engine, scorer):
    request = Request("r", [{"role": "user", "content": "Hello"}])
    generation = engine.begin(scorer)
    assert (len(generation), generation.step(), isinstance(generation, NoGeneration)) == (0, [], True)
    with pytest.raises(InputError, match="groundwire serve --engine vllm"):
        generation.add(request)
    with pytest.raises(InputError):
        list(engine.generate([request], scorer))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_it_says_what_to_install():
    with pytest.raises(MissingExtra, match=r'pip install "groundwire\[vllm\]"'):
        VllmEngine.open()


def test_what_several_workers_say():
    assert first_of([None, [1], None]) == [1]
    assert first_of([None, None]) is None
    outputs = [SimpleNamespace(prompt_token_ids=[1, 2, 3], num_cached_tokens=n) for n in (0, 2, None)]
    assert tokens_of(outputs) == 3 + 1 + 3
