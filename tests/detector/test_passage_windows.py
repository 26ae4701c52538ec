"""Windows of a long prompt: what they hold, that they overlap and fit, and what the detector makes of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from groundwire import Guard
from groundwire.calibration import sigmoid
from groundwire.detector import Detector
from groundwire.engines.fake import FakeTokenizer, fake_detector
from groundwire.errors import CaptureError, PromptTooLong
from groundwire.passage_windows import Material, PassageWindows, joined
from groundwire.prompts import grounded_messages, render, rendered
from groundwire.scoring import Pooling
from groundwire.types import Example, Message, Passage
from tests.detector.tiny import grounded, random_artifact, tiny_engine, user

QUESTION = "What is kept in the tower?"
OVERHEAD = 60  # tokens, enough for what `grounded_messages` puts around passages and for a label
TEXTS = st.lists(
    st.lists(st.sampled_from(["ab", "tower", "é", "1,889", "end.", "So", "\n", "\n\n"]), min_size=1, max_size=80),
    min_size=1,
).map(lambda passages: [" ".join(words) for words in passages])


def sentence(i: int, words: int = 12) -> str:
    return f"Fact{i} " + " ".join(f"word{i}x{k}" for k in range(words)) + "."


def asked(passages: list[str], response: str) -> Example:
    given = [Passage(text) for text in passages]
    return Example("1", grounded_messages(QUESTION, given), response, passages=given)


def fake(context: int, kind: str = "max") -> Detector:
    detector = fake_detector()
    detector.engine.context = context
    scorer = replace(detector.artifact.scorer, pooling=Pooling(kind, window=2))
    detector.artifact = replace(detector.artifact, scorer=scorer)
    return detector


def windows_of(tokenizer: Any, example: Example, context: int, response: int) -> list[str]:
    return [tokenizer.decode(each.ids) for each in PassageWindows(tokenizer, context).cut(example, response)]


# What windows hold


@given(TEXTS, st.integers(32, 200))
@example(["ﷺ" * 400], 32)
@example(["\n" * 400], 32)
@example(["nospace" * 400], 32)
def test_windows_hold_every_character_and_overlap(passages: list[str], room: int) -> None:
    tokenizer = FakeTokenizer()
    text = grounded_messages(QUESTION, [Passage(p) for p in passages])[0]["content"]
    material = Material.of(tokenizer, text, [Passage(p) for p in passages], 64)
    found = material.windows(room)
    assert found[0][0] == material.start
    assert found[-1][1] == material.end
    for (start, end), (later, last) in pairwise(found):
        assert start < later < end < last
        shared = len(tokenizer(text[later:end])["input_ids"])
        assert shared >= room // 8 - 1  # a token cut in two counts as one
    for start, end in found:
        assert len(tokenizer(text[start:end])["input_ids"]) <= room + 1
    kept = text[: material.start], text[material.end :]
    assert all(p.strip() in text[material.start : material.end] for p in passages)
    if any(p.strip() for p in passages):
        assert kept[0].startswith("Answer the question using only")
        assert kept[1].endswith(QUESTION)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, st.integers(0, 40))
def test_every_window_fits_and_asks_the_question(tiny_llama_folder: Path, passages: list[str], response: int) -> None:
    tokenizer, context = tiny_engine(tiny_llama_folder).tokenizer, 256
    row = asked(passages, "")
    try:
        prompts = PassageWindows(tokenizer, context).cut(row, response)
    except PromptTooLong:
        around = render(tokenizer, grounded_messages(QUESTION, [Passage("")]))
        assert context - len(around) - response < context // 8 + context // 8 + 8
        return
    assert all(len(prompt) + response <= context for prompt in prompts)
    texts = [tokenizer.decode(prompt.ids) for prompt in prompts]
    assert all(QUESTION in text for text in texts)
    if len(render(tokenizer, row.messages)) + response + context // 8 < context and all(p.strip() for p in passages):
        assert prompts == (rendered(tokenizer, row.messages),)


def test_windows_begin_and_end_between_passages_which_keep_their_labels() -> None:
    passages = [sentence(i) for i in range(30)]
    texts = windows_of(FakeTokenizer(), asked(passages, ""), 256, 20)
    assert len(texts) > 2
    numbers = [[i for i in range(30) if f"Passage {i + 1}: {passages[i]}" in text] for text in texts]
    for text, own in zip(texts, numbers, strict=True):
        assert own == list(range(own[0], own[-1] + 1))
        assert text.count("Passage ") == len(own)
        assert text.startswith("user: Answer the question using only")
        assert text.endswith(f"{passages[own[-1]]}\n\nQuestion: {QUESTION}\nassistant:")
    assert all(set(a) & set(b) for a, b in pairwise(numbers))


def test_a_passage_too_long_for_a_window_is_cut_between_sentences() -> None:
    one = " ".join(sentence(i) for i in range(60))
    texts = windows_of(FakeTokenizer(), asked(["First.", one, "Last."], ""), 256, 20)
    facts = [[i for i in range(60) if sentence(i) in text] for text in texts]
    assert len(texts) > 4
    assert sorted({i for own in facts for i in own}) == list(range(60))
    assert all(text.count("Fact") == len(own) for text, own in zip(texts, facts, strict=True))  # whole sentences only
    assert all(set(a) & set(b) for a, b in pairwise(facts))


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ("Summarize the following document.\n\n", "\n\nSummary:"),
        ("Use only this context.\n<context>\n", "\n</context>\nWhat is kept in the tower?"),
        ("What is said of the tower?\n", ""),
        ("", "\nWhat is said of the tower?"),
        ("", ""),
    ],
)
def test_a_text_without_passages_of_its_own_keeps_its_first_and_last_line(head: str, tail: str) -> None:
    body = " ".join(sentence(i) for i in range(60))
    messages: list[Message] = [{"role": "system", "content": "Be brief."}, *user(head + body + tail)]
    texts = windows_of(FakeTokenizer(), Example("1", messages, ""), 256, 20)
    assert len(texts) > 4
    assert all(text.startswith(f"system: Be brief.\nuser: {head}") for text in texts)
    assert all(text.endswith(f".{tail}\nassistant:") for text in texts)
    assert all(any(sentence(i) in text for text in texts) for i in range(60))


def test_what_is_too_long_to_stand_in_every_window_is_cut_with_the_passages() -> None:
    before, after = ([sentence(i) for i in numbers] for numbers in (range(20), range(30, 50)))
    given = [Passage("Kept in the tower.")]
    content = f"{' '.join(before)}\n\n{given[0].text}\n\n{' '.join(after)}"
    texts = windows_of(FakeTokenizer(), Example("1", user(content), "", passages=given), 256, 20)
    assert all(any(fact in text for text in texts) for fact in (*before, given[0].text, *after))
    assert sum(given[0].text in text for text in texts) < len(texts)


def test_answers_of_similar_length_share_windows_and_each_has_its_own_whatever_it_is_scored_with() -> None:
    tokenizer, row = FakeTokenizer(), asked([sentence(i) for i in range(30)], "")
    windows = PassageWindows(tokenizer, 256)
    assert windows.cut(row, 5) is windows.cut(row, 32)
    assert windows.cut(row, 33) == PassageWindows(tokenizer, 256).cut(row, 64)


# What the detector makes of them


@pytest.mark.parametrize("kind", ["max", "window"])
def test_a_word_of_any_window_is_known_and_one_of_none_is_flagged(kind: str) -> None:
    passages = [sentence(i) for i in range(40)]
    detector = fake(256, kind)
    known = detector.score(asked(passages, "word1x2 word20x3 word39x4"), passage_windows=True)
    assert known.checked
    assert known.passage_windows is not None
    assert known.passage_windows > 2
    assert known.score is not None
    assert known.score < 0.5
    assert known.spans == ()
    unknown = detector.score(asked(passages, "word1x2 nowhere word39x4 word38x3"), passage_windows=True)
    assert [span.text for span in unknown.spans] == ["nowhere"]
    assert unknown.score is not None
    assert unknown.score > known.score
    assert unknown.spans[0].evidence is not None
    whole = fake(5000, kind)
    for answer in ("word1x2 word20x3 word39x4", "word1x2 nowhere word39x4 word38x3"):
        plain, windowed = (d.score(asked(passages, answer), passage_windows=True) for d in (whole, detector))
        assert plain.passage_windows is None
        assert windowed.passage_windows == known.passage_windows
        assert replace(windowed, passage_windows=None, forward_seconds=0.0, check_seconds=0.0) == replace(
            plain, forward_seconds=0.0, check_seconds=0.0
        )


@pytest.fixture(params=["max", "window"])
def tiny(tiny_llama_folder: Path, request: pytest.FixtureRequest) -> Detector:
    engine = tiny_engine(tiny_llama_folder)
    return Detector(grounded(random_artifact(engine, request.param)), engine, threshold=0.5)


def test_contributions_add_up_and_rows_are_those_of_the_windows(tiny: Detector) -> None:
    row = asked(["It was finished in 1889 by Lisbon builders. " * 20], "It was built in 1901 by a builder.")
    found = tiny.score(row, features=True, passage_windows=True)
    assert found.checked
    assert found.intercept is not None
    assert found.passage_windows is not None
    assert found.passage_windows > 1
    assert found.features is not None
    assert sigmoid(found.intercept + sum(c.contribution for c in found.contributions)) == pytest.approx(found.score)
    alone = [
        tiny.engine.replay([asked_], tiny.artifact.scorer, features=True)[0][0] for asked_ in asked_windows(tiny, row)
    ]
    kept = torch.stack([r.features for r in alone if r.features is not None])
    risks = tiny.artifact.scorer.shapes(kept).sum(2)
    for t, features in enumerate(found.features):
        at = int((kept[:, t] - features).abs().sum(1).argmin())
        assert torch.allclose(kept[at, t], features, atol=1e-4)
        assert float(risks[at, t]) == pytest.approx(float(risks[:, t].min()), abs=1e-3)
    if tiny.artifact.scorer.pooling.kind == "window":
        assert joined(alone, tiny.artifact.scorer).logit <= min(r.logit for r in alone) + 1e-3


def asked_windows(detector: Detector, row: Example) -> list[Any]:
    from groundwire.engines.base import Asked

    ids = detector.tokenizer(row.response, add_special_tokens=False)["input_ids"]
    prompts = PassageWindows(detector.tokenizer, detector.engine.context).cut(row, len(ids))
    return [Asked(prompt.ids, [ids]) for prompt in prompts]


def test_one_window_is_the_plain_score(tiny: Detector) -> None:
    row = asked(["It was finished in 1889."], "It was built in 1901.")
    (ask,) = asked_windows(tiny, row)
    readouts = tiny.engine.replay([ask], tiny.artifact.scorer, features=True)[0]
    plain, one = readouts[0], joined(readouts, tiny.artifact.scorer)
    assert one.logit == pytest.approx(plain.logit, abs=1e-9)
    assert torch.allclose(one.contributions, plain.contributions)
    assert torch.equal(one.peaks, plain.peaks)
    assert torch.allclose(one.token_logits, plain.token_logits)


def test_rows_in_windows_and_whole_ones_are_scored_together_as_alone(tiny: Detector) -> None:
    short, long = ["It was finished in 1889."], ["It was finished in 1889 by Lisbon builders. " * 20]
    rows = [asked(p, r) for p in (short, long) for r in ("It was built in 1901.", "Nobody says.", "By a builder.")]
    together = tiny.score_batch(rows, passage_windows=True)
    assert [found.passage_windows is None for found in together] == [True] * 3 + [False] * 3
    assert all(found.features is None for found in together)
    for row, found in zip(rows, together, strict=True):
        alone = tiny.score(row, passage_windows=True)
        assert found.score == pytest.approx(alone.score, abs=1e-3)
        assert found.passage_windows == alone.passage_windows


# What stays unchecked


def test_a_row_without_room_stays_too_long() -> None:
    passages = [sentence(i) for i in range(40)]
    detector = fake(256)
    rows = [
        asked(passages, "word " * 230),
        Example("system", [{"role": "system", "content": "rule " * 300}, *user("text " * 301)], "word"),
        asked(passages, "word1x2"),
    ]
    found = detector.score_batch(rows, passage_windows=True)
    assert [f.reason for f in found] == ["prompt_too_long", "prompt_too_long", None]
    assert all(f.passage_windows is None and f.score is None for f in found[:2])
    assert "at least 32 for the passages" in str(found[0].detail)


def test_without_the_flag_nothing_changes() -> None:
    passages = [sentence(i) for i in range(40)]
    found = fake(256).score(asked(passages, "word1x2"))
    assert (found.status, found.reason, found.passage_windows) == ("not_checked", "prompt_too_long", None)
    assert str(found.detail).endswith("1 response tokens; context of 256")


def test_windows_that_differ_are_no_readout(tiny: Detector) -> None:
    row = asked(["It was finished in 1889."], "It was built in 1901.")
    (ask,) = asked_windows(tiny, row)
    (whole,) = tiny.engine.replay([ask], tiny.artifact.scorer, features=True)[0]
    assert whole.features is not None
    for other in (replace(whole, features=None), replace(whole, features=whole.features[:1])):
        with pytest.raises(CaptureError, match="of 2 windows"):
            joined([whole, other], tiny.artifact.scorer)
    assert not joined([whole, replace(whole, finite=False)], tiny.artifact.scorer).finite


def test_the_guard_reads_passages_beyond_the_context_in_windows() -> None:
    passages = [sentence(i) for i in range(40)]
    verdict = Guard(fake(256)).check(QUESTION, passages, "word1x2 word39x4")
    assert verdict.status == "checked"
    assert verdict.flagged is False
    assert verdict.to_dict()["passage_windows"] == verdict.detection.passage_windows
    assert (verdict.detection.passage_windows or 0) > 2
