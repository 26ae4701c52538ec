"""A detector with a checking reader: that one gives the verdict on whole answers, its own head the running score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from groundwire.answering import Answering
from groundwire.artifact import Artifact
from groundwire.calibration import sigmoid
from groundwire.detector import Detector
from groundwire.engines.base import Asked
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import CaptureError, InputError
from groundwire.prompts import render
from groundwire.source import Source
from groundwire.types import Detection, Example, Request, Sampling, Step
from tests.detector.tiny import checked_artifact, tiny_engine, user

PROMPTS = ("Passage 1: The lighthouse was finished in 1889. Question: When?", "How high is it? It is 41 metres high.")
RESPONSES = ("It was built in 1889. It is high.", "In 1901.\nBy a builder from Lisbon, as passage [1].", "41 metres")
EXAMPLES = [Example(f"{p}{r}", user(prompt), r) for r in RESPONSES for p, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def engine(tiny_llama_folder: Path) -> TransformersEngine:
    return tiny_engine(tiny_llama_folder)


@pytest.fixture(scope="module")
def saved(engine: TransformersEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detectors") / "whole"
    checked_artifact(engine).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(saved: Path, engine: TransformersEngine) -> Detector:
    return Detector.from_pretrained(saved, engine=engine)


@pytest.fixture(scope="module")
def own(saved: Path, engine: TransformersEngine) -> Detector:
    return Detector.from_pretrained(saved, engine=engine, reading="own")


def check(found: Detection, text: str) -> None:
    """What holds for every verdict of the checking reader."""
    assert found.checked
    assert found.detector is not None
    assert (found.detector["reading"], found.detector["id"]) == ("checking", "tiny-checking")
    assert found.intercept is not None
    logit = found.intercept + sum(c.contribution for c in found.contributions)
    assert logit == pytest.approx(found.logit, abs=1e-9)
    assert sigmoid(logit) == pytest.approx(found.score, abs=1e-12)
    assert max(s.score for s in found.sentences) == pytest.approx(found.score, abs=1e-9)
    assert all(text[s.start : s.end] == s.text == s.text.strip() for s in found.sentences)
    assert all(a.end <= b.start for a, b in zip(found.sentences, found.sentences[1:], strict=False))


def streamed(detector: Detector, request: Request) -> tuple[list[Step], Detection]:
    *steps, last = detector.stream(request)
    assert isinstance(last, Detection)
    return [step for step in steps if isinstance(step, Step)], last


def test_answers_that_exist_get_the_checking_reader_s_verdict(detector: Detector, own: Detector) -> None:
    together, plain = detector.score_batch(EXAMPLES), own.score_batch(EXAMPLES)
    for example, found, other in zip(EXAMPLES, together, plain, strict=True):
        check(found, example.response)
        assert found.score == pytest.approx(detector.score(example).score, abs=1e-3)
        assert abs(found.score - other.score) > 1e-6
    assert [s.text for s in together[0].sentences] == ["It was built in 1889.", "It is high."]
    assert [s.text for s in together[2].sentences] == ["In 1901.", "By a builder from Lisbon, as passage [1]."]
    assert [s.text for s in together[4].sentences] == ["41 metres"]


def test_sentences_are_read_with_what_is_nearest_to_them(
    detector: Detector, saved: Path, engine: TransformersEngine
) -> None:
    """The focus reaches answers that exist, those that were just generated, and windows."""
    prompt = "The tower was built in 1889. It is blue. Two keepers live there. Tickets cost 12 euros. How old is it?"
    whole = Artifact.from_pretrained(saved)
    assert whole.checking is not None
    blurred = Detector.from_pretrained(saved, engine=engine)
    blurred.checking = Detector(
        replace(whole.checking, focus=0),
        detector.checking.engine,
        threshold=0.5,  # type: ignore[union-attr]
    )
    example = Example("1", user(prompt), "It was built in 1890. Tickets cost 13 euros.")
    focused, plain = detector.score(example), blurred.score(example)
    check(focused, example.response)
    assert abs(focused.score - plain.score) > 1e-6  # type: ignore[operator]
    windowed = detector.score_batch([example], passage_windows=True)[0]
    assert windowed.score == pytest.approx(focused.score, abs=1e-6)
    *steps, generated = detector.stream(Request("2", user(prompt), Sampling(max_tokens=12)))
    text = "".join(step.text for step in steps if isinstance(step, Step))
    assert isinstance(generated, Detection)
    if generated.checked:
        again = detector.score(Example("3", user(prompt), text))
        assert [s.text for s in again.sentences] == [s.text for s in generated.sentences]


def test_a_model_that_cannot_focus_has_its_own_reading(
    saved: Path, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(TransformersEngine, "focuses", False)
    assert Detector.from_pretrained(saved, engine=engine).checking is None
    assert "the reading is its own" in caplog.text
    with pytest.raises(InputError, match="the checking reader of tiny"):
        Detector.from_pretrained(saved, engine=engine, reading="checking")


def test_with_the_reading_own_all_is_as_without_one(detector: Detector, own: Detector) -> None:
    bare = Detector(replace(detector.artifact, checking=None), detector.engine, threshold=0.5)
    assert own.checking is None
    assert (own.threshold, own.thresholds["recall"]) == (0.5, 0.25)
    for one, other in zip(own.score_batch(EXAMPLES), bare.score_batch(EXAMPLES), strict=True):
        assert (one.score, one.spans, one.detector) == (other.score, other.spans, other.detector)
        assert one.sentences == ()
        assert one.detector["reading"] == "own"


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=14), Sampling(max_tokens=14, stop=("e",))])
def test_a_stream_runs_with_the_own_head_and_ends_with_the_checking_verdict(
    detector: Detector, own: Detector, sampling: Sampling
) -> None:
    for i, prompt in enumerate(PROMPTS):
        request = Request(f"r{i}", user(prompt), sampling)
        (steps, found), (plain, other) = streamed(detector, request), streamed(own, request)
        assert [s.text for s in steps] == [s.text for s in plain]
        assert [s.logit for s in steps] == pytest.approx([s.logit for s in plain], abs=1e-9)
        assert steps[-1].logit == pytest.approx(other.logit, abs=1e-9)
        text, tokens = "".join(s.text for s in steps), [t for s in steps for t in s.tokens]
        check(found, text)
        checking, prompt_ids = detector.checking, render(detector.tokenizer, request.messages)
        assert checking is not None
        asked = [Asked(prompt_ids, [[t.id for t in tokens]])]
        ((readout,),) = checking.engine.replay(asked, checking.artifact.scorer, features=True)
        again = checking.detect(readout, text, tokens, Source.of(request))
        assert found.score == pytest.approx(again.score, abs=1e-4)
        assert found.forward_seconds > 0
        assert found.check_seconds > 0


def test_answers_that_decode_together_are_each_judged_as_if_alone(detector: Detector) -> None:
    requests = [Request(f"r{i}", user(p), Sampling(max_tokens=9 - 3 * i)) for i, p in enumerate((*PROMPTS, "Who?"))]
    answering, found = Answering(detector), dict[str, Detection]()
    for request in requests:
        answering.add(request)
    while len(answering):
        found |= {p.id: p.detection for p in answering.step() if p.detection is not None}
    for request in requests:
        steps, alone = streamed(detector, request)
        check(found[request.id], "".join(step.text for step in steps))
        assert found[request.id].score == pytest.approx(alone.score, abs=1e-3)


def test_an_answer_whose_second_reading_fails_is_not_checked(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CaptureError("the second pass broke")

    monkeypatch.setattr(detector.checking.engine, "replay", fail)  # type: ignore[union-attr]
    steps, found = streamed(detector, Request("r", user(PROMPTS[0]), Sampling(max_tokens=5)))
    assert any(step.text for step in steps)
    assert (found.reason, found.score) == ("capture_failed", None)
    assert "second pass broke" in str(found.detail)


def test_what_is_not_to_be_checked_is_not_read_again(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        detector.checking.engine,  # type: ignore[union-attr]
        "replay",
        lambda asked, *_, **__: pytest.fail("read") if asked else [],
    )
    _, found = streamed(detector, Request("r", user(PROMPTS[0]), Sampling(max_tokens=5), check=False))
    assert found.reason == "disabled"
    assert found.detector == detector.score(replace(EXAMPLES[0], response="")).detector
    assert detector.score(Example("a", user(PROMPTS[0]), "The passages do not say.")).reason == "abstained"


def test_the_prompt_of_an_answer_just_generated_is_not_read_again(detector: Detector) -> None:
    before = detector.tokens_read
    steps, _ = streamed(detector, Request("r", user(PROMPTS[0]), Sampling(max_tokens=7)))
    assert detector.tokens_read - before == sum(len(step.tokens) for step in steps) == 7
    detector.score(EXAMPLES[0])
    assert detector.tokens_read - before > 7 + len(render(detector.tokenizer, user(PROMPTS[0])))


def test_windows_of_passages_are_read_by_the_checking_reader(detector: Detector) -> None:
    long = user("\n\n".join(f"Passage {i}: the tower is {i} metres high." for i in range(40)))
    found = detector.score(Example("a", long, RESPONSES[0]), passage_windows=True, features=True)
    check(found, RESPONSES[0])
    assert found.passage_windows is not None
    assert found.features is not None
    assert found.features.shape == (len(found.tokens), 12)
