from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from groundwire.engines.base import Asked
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import InputError
from groundwire.training.checking import Checking, CheckingOptions, train_checking
from groundwire.training.lessons import units
from tests.training.test_lessons import example

HOOKPOINT = "model.layers.2"


@pytest.fixture(scope="module")
def engine(tiny):
    return TransformersEngine(tiny, HOOKPOINT)


@pytest.fixture(scope="module")
def sources(tiny):
    rows = []
    for i in range(24):
        year, wrong = 1800 + i, 1800 + (i * 7) % 50 + 60
        prompt = f"The lighthouse was built in {year}."
        good, bad = f"It was built in {year}.", f"It was built in {wrong}."
        rows.append(example(f"{i}a", good, group=str(i), prompt=prompt))
        rows.append(example(f"{i}b", bad, 1, ((16, 20),), group=str(i), prompt=prompt, pair=f"{i}a"))
        rows.append(example(f"{i}c", f"{good} It is high.", 1, None, group=str(i), prompt=prompt))
    return {"d": (1.0, list(units(tiny.tokenizer, rows)))}


def options(steps, **changes):
    return CheckingOptions(rank=4, steps=steps, answer_tokens=120, rate=3e-3, head_rate=3e-3, **changes)


def test_it_learns_and_the_base_model_stays_as_it_was(engine, sources, tmp_path):
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    hooks = sum(len(module._forward_hooks) for module in engine.model.modules())  # transformers keeps some of its own
    train_checking(engine, sources, tmp_path, options(60))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 60
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert all(torch.equal(value, before[name]) for name, value in engine.model.state_dict().items())
    assert sum(len(module._forward_hooks) for module in engine.model.modules()) == hooks


def test_an_interrupted_run_ends_where_a_whole_one_does(engine, sources, tmp_path):
    whole = train_checking(engine, sources, tmp_path / "whole", options(8))
    train_checking(engine, sources, tmp_path / "parts", options(8), until=0.0)  # stops before its first step
    for steps in (3, 8):
        parts = train_checking(engine, sources, tmp_path / "parts", options(8), stop_after=steps)
    for name, value in whole.tensors().items():
        assert torch.allclose(value, parts.tensors()[name], atol=1e-5), name
    assert json.loads((tmp_path / "parts" / "progress.json").read_text())["steps"] == 8


def test_another_focus_does_not_go_on(engine, sources, tmp_path):
    train_checking(engine, sources, tmp_path, options(2, focus=1))
    with pytest.raises(InputError, match="an adapter of focus 1, not 2"):
        train_checking(engine, sources, tmp_path, options(2, focus=2))


def test_lessons_are_read_with_their_focus(engine, tiny):
    prompt = "The lighthouse was built in 1811. It is blue. Two keepers live there. Tickets cost 12 euros. When?"
    rows = [example("a", "It was built in 1811. Tickets cost 13 euros.", 1, ((39, 41),), group="1", prompt=prompt)]
    found = []
    for focus in (0, 1, 2):
        lessons = [lesson for unit in units(tiny.tokenizer, rows, focus=(focus,)) for lesson in unit()]
        (answer,) = lessons[0].answers
        assert (answer.focus is None) == (focus == 0)
        checking = Checking.new(engine, lessons, options(1))
        with torch.no_grad():
            found.append(checking.rows(lessons))
    assert found[0].shape == found[1].shape == found[2].shape
    assert not torch.allclose(found[0], found[1], atol=1e-4)
    assert not torch.allclose(found[1], found[2], atol=1e-4)


def test_training_reads_what_a_replay_reads(engine, sources):
    lessons = [lesson for unit in sources["d"][1][:4] for lesson in unit()]
    checking = Checking.new(engine, lessons, options(1))
    with torch.no_grad():
        for part in checking.adapter.parameters():
            part.add_(0.05 * torch.randn(part.shape, generator=torch.Generator().manual_seed(0)))
    learned = checking.rows(lessons)  # with gradients
    assert learned.requires_grad
    reading = engine.adapted(checking.adapter)
    asked = [Asked(lesson.prompt, [a.ids for a in lesson.answers]) for lesson in lessons]
    found: dict[int, torch.Tensor] = {}
    for rows, slots in reading.replay_rows(asked):
        found |= {int(slot): rows[slots == slot] for slot in slots.unique()}
    replayed = torch.cat([found[i] for i in range(len(found))])
    assert torch.allclose(learned.detach(), replayed, atol=1e-3)
    worst = checking.worst(lessons)
    assert len(worst) == sum(len(lesson.answers) for lesson in lessons)


def test_the_state_is_written_as_tensors(engine, sources, tmp_path):
    checking = train_checking(engine, sources, tmp_path, options(2))
    tensors = load_file(tmp_path / "state.safetensors")
    assert set(checking.tensors()) <= set(tensors)
    again = Checking.new(engine, [lesson for unit in sources["d"][1][:2] for lesson in unit()], options(2))
    again.load(tensors)
    assert all(torch.equal(value, again.tensors()[name]) for name, value in checking.tensors().items())
