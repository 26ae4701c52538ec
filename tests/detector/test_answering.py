"""Answers generated and judged together: the verdicts are those of each answer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from groundwire.answering import Answering, Progress
from groundwire.calibration import sigmoid
from groundwire.detector import Detector
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.types import Detection, Readout, Request, Sampling
from tests.detector.tiny import grounded, random_artifact, tiny_engine, user

QUESTIONS = ("Who?", "Passage 1: The lighthouse was finished in 1889. Question: Who built it?", "It is high")


@pytest.fixture(scope="module")
def detector(tiny_llama_folder: Path) -> Detector:
    engine = tiny_engine(tiny_llama_folder)
    return Detector(grounded(random_artifact(engine, "window")), engine, threshold=0.5)


def asked(**more: bool) -> list[Request]:
    return [Request(f"r{i}", user(q), Sampling(max_tokens=6 + i), **more) for i, q in enumerate(QUESTIONS)]


def run(answering: Answering) -> dict[str, list[Progress]]:
    found: dict[str, list[Progress]] = {}
    while len(answering):
        for progress in answering.step():
            found.setdefault(progress.id, []).append(progress)
    return found


def detection(steps: list[Progress]) -> Detection:
    assert all(p.detection is None for p in steps[:-1])
    assert steps[-1].detection is not None
    return steps[-1].detection


def test_each_gets_the_detection_of_its_own_stream(detector: Detector) -> None:
    answering = Answering(detector)
    prompts = [answering.add(request) for request in asked()]
    assert prompts == sorted(set(prompts)) or len(set(prompts)) == 3
    found = run(answering)
    for request in asked():
        *_, alone = detector.stream(request)
        assert isinstance(alone, Detection)
        assert detection(found[request.id]).score == pytest.approx(alone.score, abs=1e-3)
        assert [s.text for s in detection(found[request.id]).spans] == [s.text for s in alone.spans]


def test_the_last_running_score_is_the_score(detector: Detector) -> None:
    answering = Answering(detector)
    answering.add(asked()[1])
    steps = run(answering)["r1"]
    assert steps[0].running is None
    assert steps[-1].running == pytest.approx(detection(steps).score, abs=1e-9)
    assert all(p.running == pytest.approx(sigmoid(p.step.logit)) for p in steps if p.step.logit is not None)


def test_what_is_not_to_be_checked_says_so(detector: Detector) -> None:
    answering = Answering(detector)
    answering.add(asked(check=False)[0])
    steps = run(answering)["r0"]
    assert detection(steps).reason == "disabled"
    assert detection(steps).score is None
    assert all(p.running is None for p in steps)


def test_where_no_running_score_is_wanted_the_score_is_the_same(detector: Detector) -> None:
    answering = Answering(detector)
    answering.add(asked(running=False)[1])
    steps = run(answering)["r1"]
    assert all(p.running is None and p.step.logit is None for p in steps)
    answering.add(asked()[1])
    assert detection(run(answering)["r1"]).score == pytest.approx(detection(steps).score, abs=1e-9)


def test_a_dropped_request_is_forgotten(detector: Detector) -> None:
    answering = Answering(detector)
    for request in asked():
        answering.add(request)
    answering.step()
    answering.drop("r1")
    answering.drop("nobody")
    assert len(answering) == 2
    assert set(run(answering)) == {"r0", "r2"}


def test_what_is_refused_is_not_under_way(detector: Detector) -> None:
    answering = Answering(detector)
    with pytest.raises(InputError):
        answering.add(Request("bad", user("Who?"), Sampling(max_tokens=0)))
    assert len(answering) == 0
    assert answering.step() == []


def test_the_fake_detector_answers_several_at_once() -> None:
    detector = fake_detector({"Who": "The keeper of Lisbon.", "When": "The light of 1889."})
    answering = Answering(detector)
    for name in ("Who", "When"):
        answering.add(Request(name, user(f"The light of 1889 has a keeper. {name}?"), Sampling(logprobs=1)))
    found = run(answering)
    assert detection(found["Who"]).score > 0.5 > detection(found["When"]).score  # type: ignore[operator]
    assert [len(p.step.logprobs) for p in found["Who"]] == [len(p.step.tokens) for p in found["Who"]]


def test_a_check_that_breaks_costs_no_answer(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    detector = fake_detector({"Who": "The keeper of Lisbon.", "When": "The light of 1889."})
    detect = detector.detect

    def breaks(readout: Readout, text: str, *rest: Any) -> Detection:
        if "keeper" in text:
            raise ValueError(text)
        return detect(readout, text, *rest)

    monkeypatch.setattr(detector, "detect", breaks)
    answering = Answering(detector)
    for name in ("Who", "When"):
        answering.add(Request(name, user(f"The light of 1889 has a keeper. {name}?"), Sampling()))
    found = run(answering)
    broken = detection(found["Who"])
    assert (broken.reason, broken.detail) == ("capture_failed", "ValueError")
    assert "".join(p.step.text for p in found["Who"]) == "The keeper of Lisbon."
    assert detection(found["When"]).checked
    assert "an answer was not checked" in caplog.messages
