from __future__ import annotations

import itertools

import numpy as np
import pytest

from groundwire.prompts import tokenize_response
from groundwire.training.data import LabelledExample
from groundwire.training.lessons import ANSWERS, mixed, taught, units


def example(name, response, label=0, spans=(), group="g", prompt="the passages", pair=None):
    messages = [{"role": "user", "content": prompt}]
    return LabelledExample(
        name, messages, response, label=label, spans=spans, group=group, generator="m", dataset="d", pair=pair
    )


def test_spans_give_every_sentence_and_token_its_target(tiny):
    text = "It was built in 1889. It is 41 metres high."
    found = taught(tiny.tokenizer, example("a", text, 1, ((30, 32),)))
    tokens = tokenize_response(tiny.tokenizer, text)
    assert found.sentences.tolist() == [0.0, 1.0]
    hit = [t for t, target in zip(tokens, found.tokens, strict=True) if target]
    assert (hit[0].start <= 30, hit[-1].end >= 32, len(hit) < 4) == (True, True, True)
    assert tokens[found.ends[0]].end == text.index(".") + 1
    assert found.ends[-1] == len(tokens) - 1


@pytest.mark.parametrize(
    ("text", "label", "sentences", "tokens"),
    [
        ("It was built in 1889.", 1, [1.0], None),
        ("It was built. It is high.", 1, [None, None], None),
        ("It was built. It is high.", 0, [0.0, 0.0], 0.0),
    ],
)
def test_a_label_alone_says_what_it_can(tiny, text, label, sentences, tokens):
    found = taught(tiny.tokenizer, example("a", text, label, None))
    assert [None if np.isnan(s) else s for s in found.sentences] == sentences
    assert np.isnan(found.tokens).all() if tokens is None else (found.tokens == tokens).all()


def test_answers_to_a_prompt_stand_together_and_know_their_pairs(tiny):
    rows = [
        example("a", "It was built in 1889."),
        example("b", "It is high.", prompt="another"),
        example("c", "It was built in 1789.", 1, ((16, 20),), pair="a"),
    ]
    ((unit),) = units(tiny.tokenizer, rows)
    first, second = unit()
    assert (len(first.answers), first.pairs, len(second.answers), second.pairs) == (2, ((0, 1),), 1, ())
    assert first.size == sum(len(a.ids) for a in first.answers)


def test_what_is_too_long_or_empty_is_left_out_with_its_pair(tiny):
    rows = [example("a", "It. " * 40), example("b", "It is.", 1, ((0, 2),), pair="a"), example("c", "")]
    ((unit),) = units(tiny.tokenizer, rows, most=60)
    (lesson,) = unit()
    assert (len(lesson.answers), lesson.pairs) == (1, ())


def test_large_groups_become_several_units(tiny):
    rows = [example(f"{i}", "It is.", prompt=f"p{i // 4}") for i in range(3 * ANSWERS)]
    sizes = [sum(len(lesson.answers) for lesson in unit()) for unit in units(tiny.tokenizer, rows)]
    assert sum(sizes) == len(rows)
    assert max(sizes) <= ANSWERS + 4


def test_sources_are_drawn_by_weight_all_of_each_before_any_again():
    sources = {
        "a": (3.0, [lambda i=i: [f"a{i}"] for i in range(4)]),
        "b": (1.0, [lambda: ["b"]]),
        "none": (5.0, []),
        "never": (0.0, [lambda: ["never"]]),
    }
    drawn = [unit[0] for unit in itertools.islice(mixed(sources, 0), 400)]
    assert 250 < sum(d.startswith("a") for d in drawn) < 350
    assert "never" not in drawn
    of_a = [d for d in drawn if d.startswith("a")]
    assert all(set(of_a[i : i + 4]) == {"a0", "a1", "a2", "a3"} for i in range(0, len(of_a) - 4, 4))
    assert [unit[0] for unit in itertools.islice(mixed(sources, 0, skip=10), 20)] == drawn[10:30]
