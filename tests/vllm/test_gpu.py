"""What only a GPU has: the V2 runner, full CUDA graphs, bfloat16, async scheduling, several GPUs. Not its speed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from groundwire.calibration import sigmoid
from groundwire.detector import Detector
from groundwire.engines.base import Asked
from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.engines.vllm.engine import VllmEngine, first_of
from groundwire.engines.vllm.wire import Take, Wish, unpack
from groundwire.prompts import render
from groundwire.scoring import Scorer
from groundwire.types import Readout
from tests.conftest import CHAT_TEMPLATE, TINY_CONTEXT, VOCABULARY, _save, _tiny_tokenizer
from tests.detector.tiny import random_artifact
from tests.vllm.conftest import LIMITS, Server, messages, ours

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")

SHARED = {"gpu_memory_utilization": 0.3}  # vLLM wants so much to be free, and other engines may be there
GRAPHS: dict[str, Any] = {"compilation_config": {"cudagraph_mode": "FULL"}}
TINY: dict[str, Any] = {**SHARED, "dtype": "float32", "max_model_len": TINY_CONTEXT, "max_num_seqs": 8}
TINY_CACHE = {"kv_cache_memory_bytes": 64 << 20}
EXACT = (0.99999, 1e-3)  # least cosine of a token's features, largest difference of scores
LOOSE = (0.999, 0.02)
LEFT, STAYED = 40, 40  # streams


@dataclass(frozen=True)
class Answer:
    """What vLLM answered, less its last token: EOS is never a row, and a last token for its length was no input."""

    prompt: list[int]
    ids: list[int]
    ended_by: str
    found: Readout | None


@contextmanager
def opened(*args: Any, **options: Any) -> Iterator[VllmEngine]:
    """An engine of the V2 runner until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
        engine = VllmEngine.open(*args, **options)
        assert engine.llm.llm_engine.vllm_config.use_v2_model_runner
        try:
            yield engine
        finally:
            engine.llm.llm_engine.engine_core.shutdown()


def answered(engine: VllmEngine, scorer: Scorer, prompts: Sequence[list[int]], **sampling: Any) -> list[Answer]:
    """Answers to all prompts at once, each followed as the server does it, with its features besides."""
    from vllm import SamplingParams, TokensPrompt

    wishes = [Wish(uuid.uuid4().hex, features=True) for _ in prompts]
    params = [SamplingParams(extra_args=wish.to_args(), seed=i, **sampling) for i, wish in enumerate(wishes)]
    outputs = engine.llm.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], params, use_tqdm=False)
    choices = [out.outputs[0] for out in outputs]
    takes = [asdict(Take(w.key, 0, len(c.token_ids) - 1)) for w, c in zip(wishes, choices, strict=True)]
    data = first_of(engine.llm.collective_rpc("groundwire_take", args=(takes, [])))
    return [
        Answer(p, list(c.token_ids)[:-1], c.finish_reason, unpack(d, scorer) if d is not None else None)
        for p, c, d in zip(prompts, choices, data, strict=True)
    ]


def assert_alike(answers: Sequence[Answer], engine: Any, scorer: Scorer, limits: tuple[float, float]) -> None:
    """What was found while generating is what `engine` finds where it replays."""
    cosine, score = limits
    expected = engine.replay([Asked(one.prompt, [one.ids]) for one in answers], scorer, features=True)
    for one, (readout,) in zip(answers, expected, strict=True):
        assert one.found is not None
        assert one.found.rows == readout.rows == len(one.ids)
        if one.ids:
            assert float(torch.cosine_similarity(one.found.features, readout.features, dim=1).min()) >= cosine
            assert sigmoid(one.found.logit) == pytest.approx(sigmoid(readout.logit), abs=score)


def stats(engine: VllmEngine) -> dict[str, float]:
    return first_of(engine.llm.collective_rpc("groundwire_stats"))


def prompts(engine: VllmEngine, count: int) -> list[list[int]]:
    return [render(engine.tokenizer, messages(i)) for i in range(count)]


@pytest.fixture(scope="module")
def reference() -> Detector:
    """In float32: what bfloat16 is to be near."""
    return Detector.from_pretrained(device=DEVICE, reading="own")


@pytest.fixture(scope="module")
def scorer(reference: Detector) -> Scorer:
    return reference.artifact.scorer


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def engine(request: pytest.FixtureRequest) -> Iterator[VllmEngine]:
    with opened(**LIMITS, **SHARED, **GRAPHS, dtype=request.param, async_scheduling=True) as found:
        yield found


@pytest.fixture
def limits(engine: VllmEngine) -> tuple[float, float]:
    return EXACT if "float32" in engine.dtype else LOOSE


# -- the V2 runner, graphs, async scheduling --------------------------------------------------------------------------


def test_features_and_scores_under_full_graphs_are_those_of_the_transformers_engine(engine, limits, reference, scorer):
    config = engine.llm.llm_engine.vllm_config
    assert not config.model_config.enforce_eager
    answers = answered(engine, scorer, prompts(engine, 32), temperature=0.7, max_tokens=40, ignore_eos=True)
    assert_alike(answers, reference.engine, scorer, limits)
    assert (stats(engine)["slots"], stats(engine)["failed"]) == (0, 0)


def test_a_batch_between_the_sizes_of_graphs_is_padded(engine, limits, reference, scorer):
    answers = answered(engine, scorer, prompts(engine, 27), temperature=0.7, max_tokens=11, ignore_eos=True)
    assert_alike(answers, reference.engine, scorer, limits)


def test_the_row_beyond_eos_is_no_part_of_an_answer(engine, limits, scorer):
    """Async scheduling runs a step more than an answer has: vLLM's front learns of EOS when it is under way."""
    assert engine.llm.llm_engine.vllm_config.scheduler_config.async_scheduling
    answers = answered(engine, scorer, prompts(engine, 24), temperature=0.3, max_tokens=200)
    ended = [one for one in answers if one.ended_by == "stop"]
    assert len(ended) >= 6
    assert_alike(ended, engine, scorer, limits)
    assert stats(engine)["failed"] == 0


def test_answers_that_exist_are_scored_alike(engine, limits, reference, scorer):
    answers = [[5000 + i, 6000 + i, 7000 + i, 8000] for i in range(20)]
    asked = [Asked(prompt, answers) for prompt in prompts(engine, 3)]
    for mine, theirs in zip(
        engine.replay(asked, scorer, features=True), reference.engine.replay(asked, scorer, features=True), strict=True
    ):
        for one, other in zip(mine, theirs, strict=True):
            assert float(torch.cosine_similarity(one.features, other.features, dim=1).min()) >= limits[0]
            assert sigmoid(one.logit) == pytest.approx(sigmoid(other.logit), abs=limits[1])


# -- preemption -------------------------------------------------------------------------------------------------------


def test_preempted_answers_lack_no_row(reference, scorer):
    """A cache for a few answers, and many more of them: most are thrown out in the middle and read again."""
    small = {**LIMITS, "max_model_len": 1024, "kv_cache_memory_bytes": 80 << 20}
    with opened(**small, **SHARED, dtype="float32", disable_log_stats=False) as engine:
        answers = answered(engine, scorer, prompts(engine, 24), temperature=0.7, max_tokens=160, ignore_eos=True)
        counted = {metric.name: getattr(metric, "value", 0) for metric in engine.llm.get_metrics()}
        assert counted["vllm:num_preemptions"] > 0
        assert_alike(answers, reference.engine, scorer, EXACT)
        assert stats(engine)["slots"] == 0


# -- models with an operator in the layer, and several GPUs ------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose heads two GPUs can share, and are as wide as attention on GPUs wants them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tiny_tokenizer(CHAT_TEMPLATE)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TINY_CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return _save(tmp_path_factory.mktemp("llama") / "tiny-llama-gpu", model, tokenizer)


@dataclass(frozen=True)
class Tiny:
    """A tiny model, a random detector of it, and what transformers finds. kind: of the tap it gets."""

    model: Path
    detector: Path
    engine: TransformersEngine
    scorer: Scorer
    kind: str


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], Tiny]:
    def make(model: Path, kind: str) -> Tiny:
        engine = TransformersEngine(load_reader(model), "model.layers.2")
        artifact, folder = random_artifact(engine, "window"), tmp_path_factory.mktemp("detector")
        artifact.save_pretrained(folder)
        return Tiny(model, folder, engine, artifact.scorer, kind)

    return make


def assert_followed(engine: VllmEngine, tiny: Tiny) -> None:
    """What is generated, and what is read, has the rows that transformers gives."""
    about = engine.llm.collective_rpc("groundwire_begin")
    assert [one["tap"] for one in about if one] == [tiny.kind]
    assert about[0]["follows"]
    texts = [f"Passage 1: The lighthouse was finished in {1880 + i}.\n\nQuestion: When?" for i in range(8)]
    asked = [render(engine.tokenizer, [{"role": "user", "content": text}]) for text in texts]
    answers = answered(engine, tiny.scorer, asked, temperature=1.0, max_tokens=30, ignore_eos=True)
    assert_alike(answers, tiny.engine, tiny.scorer, EXACT)
    ids = tiny.engine.tokenizer("The lighthouse was finished in 1889 by a builder from Lisbon. " * 3)["input_ids"]
    assert float(torch.cosine_similarity(engine.read(ids), tiny.engine.read(ids), dim=1).min()) >= EXACT[0]
    assert stats(engine)["failed"] == 0


def test_the_operator_captures_under_graphs(gemma, tiny):
    """Gemma-2 gives no hidden states beside its output."""
    made = tiny(gemma, "op")
    with opened(made.detector, model=gemma, **TINY, **TINY_CACHE, **GRAPHS) as engine:
        assert_followed(engine, made)


@two_gpus
@pytest.mark.parametrize("kind", ["aux", "op"])
def test_the_first_of_two_gpus_follows(kind, llama, gemma, tiny):
    made = tiny(llama if kind == "aux" else gemma, kind)
    with opened(made.detector, model=made.model, **TINY, **TINY_CACHE, **GRAPHS, tensor_parallel_size=2) as engine:
        assert len(engine.llm.collective_rpc("groundwire_stats")) == 2
        assert_followed(engine, made)


# -- the server -------------------------------------------------------------------------------------------------------


def test_streams_that_are_left_leave_no_slot(serve):
    """Half of the streams are left by their clients while the engine is at work on all of them."""
    server = serve(
        ours("--gpu-memory-utilization", str(SHARED["gpu_memory_utilization"])), VLLM_USE_V2_MODEL_RUNNER="1"
    )
    assert asyncio.run(_crowd(server)) == ["checked"] * STAYED
    for _ in range(20):  # what was left is forgotten with the next call to the worker
        _ask(server)
        if server.rpc("groundwire_stats")["slots"] == 0:
            break
    found = server.rpc("groundwire_stats")
    assert (found["slots"], found["failed"]) == (0, 0)


def _ask(server: Server) -> None:
    server.client.chat.completions.create(model=server.model, messages=messages(0), max_tokens=2)  # type: ignore[arg-type]


async def _crowd(server: Server) -> list[str]:
    """What the verdicts of the streams say that stayed to their end."""
    model = server.model

    async def one(client: openai.AsyncOpenAI, i: int) -> str | None:
        chunks = await client.chat.completions.create(
            model=model,
            messages=messages(i),  # type: ignore[arg-type]
            max_tokens=64,
            stream=True,
            extra_body={"ignore_eos": True, "seed": i},
        )
        texts, status = 0, None
        async for chunk in chunks:
            for choice in chunk.choices:
                texts += bool(choice.delta.content)
                if choice.finish_reason:
                    status = (choice.model_extra or {})["hallucination"]["status"]
            if i % 2 and texts > i % 30:
                await chunks.close()
                return None
        return status

    async with server.async_client as client:
        found = await asyncio.gather(*(one(client, i) for i in range(LEFT + STAYED)))
    return [status for status in found if status is not None]
