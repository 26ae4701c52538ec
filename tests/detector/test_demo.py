"""The demo prints what the model said, marked, with score, threshold, terms and cost; nothing of it is canned."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from groundwire.demo import QUESTIONS, demo
from groundwire.detector import Detector
from groundwire.engines.fake import fake_detector

ANSWERS = {
    QUESTIONS[0].text: "It opened in 1931.",
    QUESTIONS[1].text: "Edmund Blackwood designed the bridge.",
    QUESTIONS[4].text: "The passages do not say.",
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "from_pretrained", lambda artifact=None: fake_detector(ANSWERS))


@pytest.mark.usefixtures("fake")
def test_every_question_gets_its_answer_and_a_verdict() -> None:
    result = CliRunner().invoke(demo, [])
    assert result.exit_code == 0, result.output
    for question in QUESTIONS:
        assert question.text in result.output
    assert "⟦Edmund⟧ Blackwood designed the bridge." in result.output
    assert "UNFAITHFUL: score" in result.output
    assert "NOT CHECKED (abstained)" in result.output
    assert "of the forward pass" in result.output
    assert result.output.count("groundwire score") == 1


@pytest.mark.usefixtures("fake")
def test_the_model_is_what_answers() -> None:
    """Another model's words appear in place of the first one's."""
    before = CliRunner().invoke(demo, []).output
    ANSWERS[QUESTIONS[0].text] = "1777."
    try:
        after = CliRunner().invoke(demo, []).output
    finally:
        ANSWERS[QUESTIONS[0].text] = "It opened in 1931."
    assert "1777" not in before
    assert "⟦1777⟧" in after


@pytest.mark.usefixtures("fake")
def test_colour_replaces_the_markers() -> None:
    result = CliRunner().invoke(demo, ["--color"], color=True)
    assert "\x1b[41m" in result.output
    assert "⟦Edmund" not in result.output
