"""The detector: order, reasons for not checking, what a detection holds, thresholds and prevalence."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from groundwire.artifact import Artifact
from groundwire.calibration import log_odds, sigmoid
from groundwire.detector import Detector
from groundwire.engines.base import Asked
from groundwire.engines.fake import FakeEngine, fake_detector
from groundwire.errors import ArtifactError, CaptureError, InputError, PromptTooLong
from groundwire.evidence import EvidenceIndex
from groundwire.prompts import tokenize_response
from groundwire.source import Source
from groundwire.types import Detection, Example, Passage, Readout, Request, Sampling, Step
from tests.detector.tiny import grounded, random_artifact, tiny_engine, user

PROMPTS = ("Passage 1: The lighthouse was finished in 1889. Question: When?", "How high is it? It is 41 metres high.")
RESPONSES = ("It was built in 1889.", "In 1901 by a builder from Lisbon, the keeper's log says.", "41 metres")


def make(folder: Path, kind: Literal["max", "window"] = "max", *, more: bool = False) -> Detector:
    engine = tiny_engine(folder)
    artifact = random_artifact(engine, kind)
    return Detector(grounded(artifact) if more else artifact, engine, threshold=0.5)


@pytest.fixture(params=["max", "window", "max and grounding", "window and grounding"])
def detector(tiny_llama_folder: Path, request: pytest.FixtureRequest) -> Detector:
    kind, more = request.param.split()[0], "grounding" in request.param
    return make(tiny_llama_folder, kind, more=more)


@pytest.fixture
def saved(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    make(tiny_llama_folder).artifact.save_pretrained(tmp_path / "detector")
    return tmp_path / "detector"


def examples() -> list[Example]:
    pairs = [(prompt, response) for response in RESPONSES for prompt in PROMPTS]
    return [Example(str(i), user(prompt), response) for i, (prompt, response) in enumerate(pairs)]


def check(found: Detection, text: str) -> None:
    """What holds for every checked detection."""
    assert found.checked
    assert found.reason is None
    assert found.score is not None
    assert found.intercept is not None
    total = found.intercept + sum(c.contribution for c in found.contributions)
    assert sigmoid(total) == pytest.approx(found.score, abs=1e-12)
    assert total == pytest.approx(found.logit, abs=1e-9)
    sizes = [abs(c.contribution) for c in found.contributions]
    assert sizes == sorted(sizes, reverse=True)
    for c in found.contributions:
        assert (c.start is None) == (c.token is None) == (c.term.kind == "grounding")
        if c.start is not None and c.token is not None:
            assert text[c.start : c.start + len(c.token)] == c.token
    assert all(text[t.start : t.end] == t.token and 0 <= t.score <= 1 for t in found.tokens)
    assert all(text[s.start : s.end] == s.text and s.text == s.text.strip() for s in found.spans)
    assert all(a.end <= b.start for a, b in zip(found.spans, found.spans[1:], strict=False))


def test_answers_come_back_in_order_and_as_if_scored_alone(detector: Detector) -> None:
    together = detector.score_batch(examples())
    for example, found in zip(examples(), together, strict=True):
        check(found, example.response)
        assert found.score == pytest.approx(detector.score(example).score, abs=1e-3)
    assert len({found.score for found in together}) == len(together)
    assert detector.score_batch([]) == []


def test_answers_to_one_prompt_share_its_encoding(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, replay = [], detector.engine.replay
    monkeypatch.setattr(
        detector.engine, "replay", lambda *args, **named: calls.append(args[0]) or replay(*args, **named)
    )
    detector.score_batch(examples())
    assert [[len(each.responses) for each in asked] for asked in calls] == [[3, 3]]


def test_a_row_that_cannot_be_scored_says_why_and_stops_no_other(detector: Detector) -> None:
    prompt = user(PROMPTS[0])
    rows = [
        Example("good", prompt, RESPONSES[0]),
        Example("empty", prompt, ""),
        Example("blank", prompt, " \n\t"),
        Example("abstained", prompt, "The passages do not say."),
        Example("long answer", prompt, "word " * 300),
        Example("long prompt", user("word " * 300), RESPONSES[0]),
        Example("no messages", [], RESPONSES[0]),
        Example("no content", [{"role": "user"}], RESPONSES[0]),  # type: ignore[typeddict-item]
        Example("good again", prompt, RESPONSES[0]),
    ]
    found = detector.score_batch(rows)
    assert [f.reason for f in found] == [
        None,
        "empty_response",
        "empty_response",
        "abstained",
        "prompt_too_long",
        "prompt_too_long",
        "invalid_input",
        "invalid_input",
        None,
    ]
    for f in found[1:-1]:
        assert (f.status, f.score, f.logit, f.intercept) == ("not_checked", None, None, None)
        assert f.detector is not None
        assert (f.contributions, f.spans, f.tokens) == ((), (), ())
    assert "context of 256" in str(found[4].detail)
    assert "message 0" in str(found[7].detail)
    assert found[0].score == pytest.approx(found[-1].score, abs=1e-3)


def test_a_response_the_tokenizer_drops_is_not_a_clean_one(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundwire.detector.tokenize_response", lambda tokenizer, response: [])
    found = detector.score(examples()[0])
    assert (found.status, found.reason) == ("not_checked", "empty_response")


def test_activations_that_are_not_numbers_are_no_detection(detector: Detector) -> None:
    with torch.no_grad():
        next(detector.engine.model.get_submodule("model.layers.1").parameters()).fill_(math.nan)
    found = detector.score(examples()[0])
    assert (found.status, found.reason, found.score) == ("not_checked", "capture_failed", None)
    last = list(detector.stream(Request("r", user(PROMPTS[0]), Sampling(max_tokens=3))))[-1]
    assert isinstance(last, Detection)
    assert last.reason in ("capture_failed", "empty_response")


def test_a_pass_without_activations_is_no_detection(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> list[list[Readout]]:
        raise CaptureError("the forward pass never reached it")

    monkeypatch.setattr(detector.engine, "replay", fail)
    found = detector.score_batch([*examples()[:2], Example("long", user(PROMPTS[0]), "word " * 300)])
    assert [f.reason for f in found] == ["capture_failed", "capture_failed", "prompt_too_long"]
    assert "never reached" in str(found[0].detail)


def test_rows_that_do_not_match_the_tokens_are_no_detection() -> None:
    detector = fake_detector()
    readout = detector.engine.replay([Asked([1], [[2, 3]])], detector.artifact.scorer)[0][0]
    source = Source("two", ())
    assert detector.detect(readout, "one", [], source).reason == "empty_response"
    tokens = [t for step in detector.stream(Request("r", user("one"))) if isinstance(step, Step) for t in step.tokens]
    assert detector.detect(readout, "one", tokens, source).reason == "capture_failed"


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=12), Sampling(max_tokens=12, stop=("e", "1"))])
def test_a_stream_ends_with_the_detection_of_its_text(detector: Detector, sampling: Sampling) -> None:
    *steps, last = detector.stream(Request("r", user(PROMPTS[0]), sampling))
    assert isinstance(last, Detection)
    text = "".join(step.text for step in steps if isinstance(step, Step))
    check(last, text)
    assert last.tokens[-1].end <= len(text)
    assert isinstance(steps[-1], Step)
    assert steps[-1].logit == pytest.approx(last.logit)
    assert last.forward_seconds > 0
    assert last.check_seconds > 0


def test_the_logit_of_every_step_is_that_of_the_text_so_far(tiny_llama_folder: Path) -> None:
    detector = make(tiny_llama_folder, "window", more=True)
    head, source = detector.artifact.grounding, Source.of(Request("r", user(PROMPTS[0])))
    assert head is not None
    request, text = Request("r", user(PROMPTS[0]), Sampling(max_tokens=20)), ""
    inner = [step.logit for _, step in detector.engine.generate([request], detector.artifact.scorer)]
    steps = [step for step in detector.stream(request) if isinstance(step, Step)]
    for step, logit in zip(steps, inner, strict=True):
        text += step.text
        if logit is None:
            assert step.logit is None
        else:
            added = float(head.contributions(source.grounding.measure(text)).sum())
            assert step.logit == pytest.approx(logit + added, abs=1e-3)


def test_grounding_terms_move_the_score_by_what_they_say(tiny_llama_folder: Path) -> None:
    with_terms, without = make(tiny_llama_folder, more=True), make(tiny_llama_folder)
    for found, bare in zip(with_terms.score_batch(examples()), without.score_batch(examples()), strict=True):
        added = sum(c.contribution for c in found.contributions if c.term.kind == "grounding")
        assert added != 0
        assert found.logit == pytest.approx(bare.logit + added)
        assert found.shares is not None
        assert found.shares["grounding"] == pytest.approx(added)
        assert sum(found.shares.values()) + found.intercept == pytest.approx(found.logit)
        assert bare.shares is not None
        assert bare.shares["grounding"] == 0
        assert bare.unlike_training is None
        assert found.unlike_training is not None
        assert set(found.unlike_training) == {"distance", "quantile", "flag"}


def test_marked_spans_come_with_the_passage_to_compare_them_with() -> None:
    passages = [Passage("The tower stands in Porto.", "a"), Passage("It was finished in 1889.", "b")]
    asked = user("The tower stands in Porto.\n\nIt was finished in 1889.\n\nWhen was it finished?")
    answer = "It was finished in 1901."
    detector = fake_detector({"When": answer})
    for found in (
        detector.score(Example("1", asked, answer, passages=passages)),
        list(detector.stream(Request("1", asked, passages=passages)))[-1],
    ):
        assert isinstance(found, Detection)
        (span,) = found.spans
        assert span.text == "1901"
        assert span.evidence is not None
        assert (span.evidence["passage_id"], span.evidence["text"]) == ("b", "It was finished in 1889.")
    (span,) = detector.score(Example("1", asked, answer)).spans
    assert span.evidence is not None
    assert (span.evidence["passage_id"], span.evidence["text"]) == (None, "It was finished in 1889.")
    asked.append({"role": "system", "content": "It was finished in 1901."})
    assert "1901" not in str(detector.score(Example("1", asked, "It was built in 1902.")).spans[0].evidence)


def test_answers_to_one_prompt_share_its_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, built = fake_detector(), []
    monkeypatch.setattr("groundwire.source.EvidenceIndex", lambda given: built.append(given) or EvidenceIndex(given))
    asked = user("It was finished in 1889. When was it?")
    detector.score_batch([Example(str(i), asked, f"It was 190{i}.") for i in range(3)])
    detector.score_batch([Example("1", asked, "It was 1889.")])  # no span, no index
    assert len(built) == 1


def test_a_stream_refuses_before_its_first_step(detector: Detector) -> None:
    with pytest.raises(PromptTooLong):
        next(detector.stream(Request("r", user("word " * 300))))
    with pytest.raises(InputError, match="no messages"):
        next(detector.stream(Request("r", [])))


def test_an_empty_stream_is_not_checked() -> None:
    *_, last = fake_detector({"nothing": ""}).stream(Request("r", user("Say nothing")))
    assert isinstance(last, Detection)
    assert (last.status, last.reason) == ("not_checked", "empty_response")


def test_a_detection_names_its_detector(detector: Detector) -> None:
    assert detector.score(examples()[0]).detector == {
        "id": "tiny",
        "version": "1",
        "model": "tiny-llama",
        "hookpoint": "model.layers.2",
        "same_model": True,
        "reading": "own",
    }


def test_from_a_folder_with_its_model_or_its_engine(saved: Path, tiny_llama_folder: Path) -> None:
    example = examples()[1]
    expected = make(tiny_llama_folder).score(example).score
    loaded = Detector.from_pretrained(saved, model=tiny_llama_folder)
    assert loaded.threshold == 0.5
    assert loaded.score(example).score == expected
    assert Detector.from_pretrained(str(saved), engine=tiny_engine(tiny_llama_folder)).score(example).score == expected


def test_the_wrong_engine_is_refused(saved: Path) -> None:
    with pytest.raises(ArtifactError, match="does not fit"):
        Detector.from_pretrained(saved, engine=FakeEngine())


def test_thresholds_by_target_or_number(saved: Path, tiny_llama_folder: Path) -> None:
    engine = tiny_engine(tiny_llama_folder)
    assert Detector.from_pretrained(saved, engine=engine, target="recall").threshold == 0.25
    assert Detector.from_pretrained(saved, engine=engine, target="recall", threshold=0.9).threshold == 0.9
    with pytest.raises(InputError, match="no threshold for target 'precision'") as caught:
        Detector.from_pretrained(saved, engine=engine, target="precision")
    assert "'balanced_accuracy', 'recall'" in caught.value.expected


def test_another_prevalence_moves_scores_and_keeps_flags(saved: Path, tiny_llama_folder: Path) -> None:
    engine = tiny_engine(tiny_llama_folder)
    before = Detector.from_pretrained(saved, engine=engine)
    middle = sorted(f.score for f in before.score_batch(examples()) if f.score is not None)[2:4]
    artifact = replace(before.artifact, thresholds={"balanced_accuracy": sum(middle) / 2, "always": 0.0})
    artifact.save_pretrained(saved)
    before = Detector.from_pretrained(saved, engine=engine)
    flags = [f.score > before.threshold for f in before.score_batch(examples())]
    assert len(set(flags)) == 2
    for prevalence in (0.02, 0.3, 0.9):
        after = Detector.from_pretrained(saved, engine=engine, prevalence=prevalence)
        found = after.score_batch(examples())
        assert [f.score > after.threshold for f in found] == flags
        shift = log_odds(prevalence) - log_odds(0.3)
        for f, example in zip(found, examples(), strict=True):
            check(f, example.response)
            assert f.logit == pytest.approx(before.score(example).logit + shift, abs=5e-3)
        assert after.artifact.prevalence == prevalence
        assert after.artifact.thresholds["always"] == 0
    with pytest.raises(InputError, match="probability 1"):
        Detector.from_pretrained(saved, engine=engine, prevalence=1.0)


def test_a_shifted_artifact_can_be_saved_and_shifted_back(saved: Path, tiny_llama_folder: Path) -> None:
    artifact = Artifact.from_pretrained(saved)
    artifact.at_prevalence(0.8).save_pretrained(saved)
    again = Artifact.from_pretrained(saved).at_prevalence(artifact.prevalence)
    assert again.scorer.intercept == pytest.approx(artifact.scorer.intercept)
    assert again.thresholds == pytest.approx(artifact.thresholds)


def test_a_response_without_tokens_stops_no_other_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = fake_detector()
    tokenized = tokenize_response
    monkeypatch.setattr(
        "groundwire.detector.tokenize_response",
        lambda tokenizer, response: [] if response == "dropped" else tokenized(tokenizer, response),
    )
    long = user("\n\n".join(f"Passage {i}: the tower is tall." for i in range(600)))
    rows = [Example(str(i), long, response) for i, response in enumerate(["It is tall.", "dropped", "It is high."])]
    found = detector.score_batch(rows, passage_windows=True, features=True)
    assert [f.reason for f in found] == [None, "empty_response", None]
    assert [f.features is None for f in found] == [False, True, False]
