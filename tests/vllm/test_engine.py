"""The worker and the offline engine on the real model, against the transformers engine."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch

from groundwire.detector import Detector
from groundwire.engines.base import Asked
from groundwire.engines.vllm.engine import VllmEngine, first_of
from groundwire.engines.vllm.wire import Take, Wish, unpack
from groundwire.errors import InputError, PromptTooLong
from groundwire.prompts import render
from groundwire.types import Example, Readout, Request
from tests.vllm.conftest import OPTIONS, messages

COSINE, SCORE = 0.99999, 1e-3
REQUESTS = 64


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    """Prompts longer than 256 tokens are read in chunks."""
    found = VllmEngine.open(**OPTIONS, max_num_batched_tokens=256, enable_prefix_caching=True)
    yield found
    found.llm.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="module")
def ours(engine: VllmEngine) -> Detector:
    return Detector.from_pretrained(engine=engine)


@pytest.fixture(scope="module")
def reference() -> Detector:
    return Detector.from_pretrained(reading="own")


@dataclass(frozen=True)
class Generated:
    """A prompt, what vLLM answered, and what its worker found."""

    prompt: list[int]
    ids: list[int]
    found: Readout | None


def generate(engine: VllmEngine, detector: Detector, count: int, **changes: Any) -> list[Generated]:
    """`count` requests of mixed lengths at once, each followed with its features."""
    from vllm import SamplingParams, TokensPrompt

    prompts = [render(engine.tokenizer, messages(i)) for i in range(count)]
    wishes = [Wish(uuid.uuid4().hex, features=True, keep=True) for _ in prompts]
    params = [
        SamplingParams(
            max_tokens=3 + 7 * i % 40, temperature=0.7, ignore_eos=True, extra_args=wish.to_args(), **changes
        )
        for i, wish in enumerate(wishes)
    ]
    outputs = engine.llm.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], params, use_tqdm=False)
    ids = [list(out.outputs[0].token_ids) for out in outputs]
    takes = [asdict(Take(wish.key, 0, len(one) - 1)) for wish, one in zip(wishes, ids, strict=True)]
    data = first_of(engine.llm.collective_rpc("groundwire_take", args=(takes, [])))
    scorer = detector.artifact.scorer
    return [
        Generated(p, one, unpack(d, scorer) if d is not None else None)
        for p, one, d in zip(prompts, ids, data, strict=True)
    ]


def assert_alike(readout: Readout | None, expected: Readout) -> None:
    assert readout is not None
    assert readout.rows == expected.rows
    assert readout.features is not None
    assert expected.features is not None
    assert float(torch.cosine_similarity(readout.features, expected.features, dim=1).min()) >= COSINE
    assert abs(torch.sigmoid(torch.tensor(readout.logit)) - torch.sigmoid(torch.tensor(expected.logit))) <= SCORE
    assert torch.allclose(readout.token_logits, expected.token_logits, atol=2e-2)


def test_a_batch_of_answers_is_read_as_the_transformers_engine_reads_them(engine, ours, reference):
    """64 requests of mixed lengths, chunked prefill, first with a cold prefix cache and then with a warm one."""
    for _ in ("cold", "warm"):
        generated = generate(engine, ours, REQUESTS)
        assert [one.found for one in generated].count(None) == 0
        asked = [Asked(one.prompt, [one.ids[:-1]]) for one in generated]
        expected = reference.engine.replay(asked, reference.artifact.scorer, features=True)
        for one, (readout,) in zip(generated, expected, strict=True):
            assert_alike(one.found, readout)
    stats = first_of(engine.llm.collective_rpc("groundwire_stats"))
    assert (stats["slots"], stats["failed"]) == (0, 0)


def test_answers_that_exist_are_scored_alike(ours, reference):
    rows = [
        Example(str(i), messages(i // 3), text)
        for i, text in enumerate(
            [
                "It was built in 1889 by Ana Dias.",
                "It is 41 metres high, and made of gold.",
                "The lamp was lit in 1891.",
            ]
            * 4
        )
    ]
    found, again = ours.score_batch(rows, features=True), ours.score_batch(rows)
    for one, second, expected in zip(found, again, reference.score_batch(rows, features=True), strict=True):
        assert one.status == second.status == "checked"
        assert one.score == pytest.approx(expected.score, abs=SCORE)
        assert second.score == pytest.approx(expected.score, abs=SCORE)  # now all of it was in the prefix cache
        assert float(torch.cosine_similarity(one.features, expected.features, dim=1).min()) >= COSINE
        assert [(s.start, s.end) for s in one.spans] == [(s.start, s.end) for s in expected.spans]


def test_a_prompt_is_read_once_for_its_answers(engine, ours):
    prompt = render(engine.tokenizer, messages(3))
    before = engine.tokens_read
    answers = [[i, i + 1, i + 2] for i in range(1000, 1020)]
    engine.replay([Asked(prompt, answers)], ours.artifact.scorer)
    assert engine.tokens_read - before < 2 * len(prompt)


def test_several_choices_of_one_request(engine, ours, reference):
    from vllm import SamplingParams, TokensPrompt

    prompt = render(engine.tokenizer, messages(1))
    wish = Wish(uuid.uuid4().hex, choices=4, features=True, keep=True)
    params = SamplingParams(n=4, max_tokens=24, temperature=1.0, extra_args=wish.to_args())
    (out,) = engine.llm.generate([TokensPrompt(prompt_token_ids=prompt)], params, use_tqdm=False)
    ids = {choice.index: list(choice.token_ids) for choice in out.outputs}
    takes = [asdict(Take(wish.key, i, len(ids[i]) - 1)) for i in range(4)]
    data = first_of(engine.llm.collective_rpc("groundwire_take", args=(takes, [])))
    expected = reference.engine.replay(
        [Asked(prompt, [ids[i][:-1] for i in range(4)])], ours.artifact.scorer, features=True
    )[0]
    for one, readout in zip(data, expected, strict=True):
        assert one is not None
        assert_alike(unpack(one, ours.artifact.scorer), readout)


def test_requests_that_did_not_ask_are_not_followed(engine):
    from vllm import SamplingParams

    first_of(engine.llm.collective_rpc("groundwire_stats"))
    engine.llm.generate(
        ["The lighthouse is"], SamplingParams(max_tokens=4, extra_args={"groundwire": 7}), use_tqdm=False
    )
    stats = first_of(engine.llm.collective_rpc("groundwire_stats"))
    assert (stats["slots"], stats["failed"]) == (0, 0)
    assert stats["steps"] >= 4


def test_what_is_too_long_is_refused_before_it_is_read(engine, ours):
    with pytest.raises(PromptTooLong, match="--max-model-len"):
        engine.replay([Asked([1] * 2040, [[1] * 10])], ours.artifact.scorer)
    long = Example("long", [{"role": "user", "content": "word " * 3000}], "It is long.")
    assert ours.score(long).reason == "prompt_too_long"


def test_it_generates_nothing_by_itself(ours):
    with pytest.raises(InputError, match="groundwire serve --engine vllm"):
        list(ours.stream(Request("r", messages(0))))


def test_groundwire_score_with_vllm(engine, tmp_path, monkeypatch):
    """The command itself, in this process: the engine that runs already stands in for the one it would start."""
    from click.testing import CliRunner

    from groundwire.batch.command import score

    monkeypatch.setattr(VllmEngine, "open", classmethod(lambda cls, *_, **__: engine))
    rows = [{"id": i, "messages": messages(i), "response": "It was built by Ana Dias."} for i in range(6)]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run = CliRunner().invoke(score, [str(source), "-o", str(target), "--engine", "vllm"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    found = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [one["id"] for one in found] == list(range(6))
    assert {one["hallucination"]["status"] for one in found} == {"checked"}
