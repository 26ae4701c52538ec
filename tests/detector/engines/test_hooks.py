"""The hook stands for one forward pass: none stays, and passes of others never run under it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from groundwire.engines.base import Asked
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import CaptureError
from groundwire.types import Readout
from tests.detector.engines.answers import readout_of, replay, requests, run, same_score
from tests.detector.tiny import random_scorer


def hooks(engine: TransformersEngine) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in engine.model.modules())


def refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError("this module must not run")


def test_a_replay_ends_at_the_hookpoint(llama: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for later in (llama.model.model.layers[3], llama.model.model.norm, llama.model.lm_head):
        monkeypatch.setattr(later, "forward", refuse)
    (readout,) = replay(llama, [5, 6, 7], [[8, 9]], random_scorer(llama))
    assert readout.rows == 2
    with pytest.raises(RuntimeError, match="must not run"):
        next(llama.generate(requests(max_tokens=8), random_scorer(llama)))


def test_no_hook_stays_whatever_happens(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, before = random_scorer(engine), hooks(engine)
    run(engine, scorer, requests(max_tokens=2))
    replay(engine, [5, 6], [[7], [8, 9]], scorer)
    assert hooks(engine) == before
    early = engine.generate(requests(max_tokens=8), scorer)
    next(early)
    assert hooks(engine) == before  # nor between two steps
    early.close()
    rows = engine.replay_rows([Asked([5, 6], [[7]])])
    next(rows)
    assert hooks(engine) == before
    broken = engine.generate(requests(max_tokens=8), scorer)
    next(broken)
    with monkeypatch.context() as patch:
        patch.setattr(engine.model.get_output_embeddings(), "forward", refuse)
        with pytest.raises(RuntimeError, match="must not run"):
            list(broken)
    assert hooks(engine) == before
    assert readout_of(run(engine, scorer, requests(max_tokens=2))["r0"]).rows == 2  # and the lock is free


def test_a_pass_that_never_reaches_the_hookpoint_is_an_error(
    llama: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = random_scorer(llama)
    monkeypatch.setattr(llama.model, "forward", lambda **_: None)
    with pytest.raises(CaptureError, match="never reached"):
        replay(llama, [5], [[6]], scorer)


def test_generators_and_replays_on_one_reader_do_not_disturb_each_other(llama: TransformersEngine) -> None:
    other = TransformersEngine(llama.reader, "model.layers.0")
    scorer, second = random_scorer(llama), random_scorer(other, "window")
    asked, prompt = requests(max_tokens=8), [5, 6, 7]
    alone = [run(llama, scorer, asked), run(other, second, asked), replay(llama, prompt, [[8, 9]], scorer)]
    found: list[dict[str, Readout]] = [{}, {}]
    rows = llama.replay_rows([Asked(prompt, [[8, 9], [10]])])
    next(rows)  # an unfinished replay, which would stop the others at its hookpoint
    generators = [llama.generate(asked, scorer), other.generate(asked, second)]
    for pair in zip(*generators, strict=True):
        for i, (name, step) in enumerate(pair):
            if step.readout is not None:
                found[i][name] = step.readout
        assert same_score(replay(llama, prompt, [[8, 9]], scorer)[0], alone[2][0])
    for i in range(2):
        assert all(same_score(found[i][name], readout_of(steps)) for name, steps in alone[i].items())


def test_threads_on_one_reader_do_not_disturb_each_other(llama: TransformersEngine) -> None:
    engines = [TransformersEngine(llama.reader, point) for point in ("model.layers.0", "model.layers.2", "model.norm")]
    scorers = [random_scorer(engine) for engine in engines]
    ids = [[50 + i, 60, 70, 80 - i] for i in range(8)]

    def work(i: int) -> list[Readout]:
        engine, scorer = engines[i % 3], scorers[i % 3]
        steps = run(engine, scorer, requests(max_tokens=6)[:2])
        return [*map(readout_of, steps.values()), *replay(engine, [5, 6, 7], ids, scorer)]

    alone = [work(i) for i in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for i, found in enumerate(threads.map(work, range(6))):
            assert all(same_score(a, b) for a, b in zip(found, alone[i % 3], strict=True))
