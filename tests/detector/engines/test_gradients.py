"""Packed passes with gradients give the rows of those without, and the gradients are those of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundwire.adapter import Adapter
from groundwire.capture import adapted, capture
from groundwire.engines import packed
from groundwire.engines.packed import Pack, Prefix, packing
from groundwire.engines.replay import PackedReplay
from groundwire.engines.transformers import TransformersEngine
from tests.detector.tiny import random_adapter

IDS = st.integers(3, 6)  # few, so that answers share beginnings by chance
ANSWERS = st.lists(st.lists(IDS, min_size=1, max_size=8), min_size=1, max_size=4)
PROMPTS = st.lists(st.tuples(st.lists(IDS, max_size=10), ANSWERS), min_size=1, max_size=4)
FIXED = [([3, 4, 5], [[6, 7, 8], [6, 7, 9, 10], [6]]), ([], [[5, 6]]), ([4, 5], [[9, 8, 7, 6]])]

Sequences = list[tuple[Sequence[int], Prefix | None]]


def behind_prompts(engine: TransformersEngine, prompts: Sequence[Any]) -> Sequences:
    """The answers behind the keys and values of their prompts, each prompt one object."""
    way, found = PackedReplay(engine), Sequences()
    for prompt, answers in prompts:
        (prefix,) = way._read([tuple(prompt)], None)
        found += [(answer, prefix) for answer in answers]
    return found


def rows_of(engine: TransformersEngine, adapter: Adapter | None, sequences: Sequences, *, learn: bool) -> Tensor:
    pack = Pack(sequences, engine.device)
    with (
        torch.set_grad_enabled(learn),
        packing(engine.model),
        adapted(engine.model, adapter),
        capture(engine.model, engine.hookpoint, stop=True, learn=learn) as hook,
    ):
        rows, _ = hook.run(engine.model, **pack.inputs())
        return rows[0][torch.cat(pack.index)]


def learning(engine: TransformersEngine) -> Adapter:
    adapter = random_adapter(engine)
    for part in adapter.parameters():
        part.requires_grad_(True)
    return adapter


@pytest.mark.parametrize("way", ["_halves", "_wholes"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS)
def test_rows_are_those_of_a_pass_without_gradients(llama: TransformersEngine, way: str, prompts: list[Any]) -> None:
    sequences, ways = behind_prompts(llama, prompts), []
    with pytest.MonkeyPatch.context() as patch:
        runs, plain = packed._runs, getattr(packed, way)
        patch.setattr(packed, "_runs", lambda *args: ways.append("runs") or runs(*args))
        patch.setattr(packed, "_halves", lambda *args: ways.append(way) or plain(*args))
        found = rows_of(llama, learning(llama), sequences, learn=True)
        expected = rows_of(llama, random_adapter(llama), sequences, learn=False)
    assert set(ways) == {"runs", way}
    assert found.requires_grad
    torch.testing.assert_close(found.detach(), expected.clone(), atol=1e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS)
def test_a_token_sees_its_prompt_and_its_own_answer_so_far(llama: TransformersEngine, prompts: list[Any]) -> None:
    sequences = behind_prompts(llama, prompts)
    pack = Pack(sequences, llama.device)
    runs = list(zip(pack.runs, pack.masks, strict=True))
    assert [start for (start, _, _), _ in runs] == [0, *(end for (_, end, _), _ in runs[:-1])]
    assert all(before[2] is not after[2] or before[2] is None for before, after in pairwise(pack.runs))
    for (ids, prefix), index in zip(sequences, pack.index, strict=True):
        offset = len(prefix) if prefix else 0
        for i, place in enumerate(index.tolist()):
            (((start, _, _), mask),) = [run for run in runs if run[0][0] <= place < run[0][1]]
            expected = [*range(offset), *sorted(offset + int(p) - start for p in index[: i + 1])]
            seen = mask[place - start]
            assert (seen == 0).nonzero()[:, 0].tolist() == expected
            assert bool((seen[seen != 0] == -torch.inf).all())
        assert len(index) == len(ids)


def test_gradients_reach_every_part_that_the_hookpoint_sees(llama: TransformersEngine) -> None:
    adapter = learning(llama)
    rows_of(llama, adapter, behind_prompts(llama, FIXED), learn=True).square().sum().backward()
    for path, pair in adapter.weights.items():
        for part in pair:
            assert part.grad is not None, path
            assert part.grad.isfinite().all()
            assert part.grad.any(), path
    assert all(parameter.grad is None for parameter in llama.model.parameters())


def test_with_b_at_zero_b_learns_first(llama: TransformersEngine) -> None:
    adapter = random_adapter(llama, size=0.0)
    for part in adapter.parameters():
        part.requires_grad_(True)
    rows_of(llama, adapter, behind_prompts(llama, FIXED), learn=True).square().sum().backward()
    assert all(b.grad.any() and not a.grad.any() for a, b in adapter.weights.values())


def test_a_gradient_is_how_the_rows_change(llama: TransformersEngine) -> None:
    """Along a random direction, against the difference of two passes without gradients."""
    adapter, sequences = learning(llama), behind_prompts(llama, FIXED)
    random = torch.Generator().manual_seed(5)
    weight = torch.randn(rows_of(llama, None, sequences, learn=False).shape, generator=random)
    (rows_of(llama, adapter, sequences, learn=True) * weight).sum().backward()
    directions = {
        path: tuple(torch.randn(part.shape, generator=random) for part in pair)
        for path, pair in adapter.weights.items()
    }
    slope = sum(
        float((part.grad * d).sum())
        for path, pair in adapter.weights.items()
        for part, d in zip(pair, directions[path], strict=True)
        if part.grad is not None
    )

    def moved(step: float) -> float:
        pairs = {
            path: tuple(p.detach() + step * d for p, d in zip(pair, directions[path], strict=True))
            for path, pair in adapter.weights.items()
        }
        found = rows_of(llama, Adapter(pairs, adapter.alpha), sequences, learn=False)  # type: ignore[arg-type]
        return float((found.double() * weight).sum())

    step = 1e-3
    assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(slope, rel=0.03, abs=0.1)


def test_without_gradients_nothing_is_kept_for_them(llama: TransformersEngine) -> None:
    assert not rows_of(llama, learning(llama), behind_prompts(llama, FIXED), learn=False).requires_grad
