"""The fake engine keeps the rules of a real one, so that what is tested over it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundwire.artifact import Artifact
from groundwire.detector import Detector
from groundwire.engines.base import Asked
from groundwire.engines.fake import FakeEngine, fake_detector
from groundwire.errors import PromptTooLong
from groundwire.prompts import render
from groundwire.types import Detection, Example, Request, Sampling, Step
from tests.detector.tiny import user

ASKED = "The tower is 330 metres tall. How tall is it?"


def run(engine: FakeEngine, *requests: Request) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {request.id: [] for request in requests}
    for name, step in engine.generate(requests, fake_detector().artifact.scorer):
        found[name].append(step)
    return found


@pytest.mark.parametrize(
    ("sampling", "text", "reason"),
    [
        (Sampling(), "It is 330 metres tall, in 1889.", "stop"),
        (Sampling(max_tokens=3), "It is 330", "length"),
        (Sampling(max_tokens=9), "It is 330 metres tall, in 1889.", "length"),  # no room for the end token
        (Sampling(stop=(" tall",)), "It is 330 metres", "stop"),
        (Sampling(stop=("tal",)), "It is 330 metres ", "stop"),
        (Sampling(stop=("It",)), "", "stop"),
    ],
)
def test_every_visible_token_has_a_row(sampling: Sampling, text: str, reason: str) -> None:
    engine = FakeEngine({"How tall": "It is 330 metres tall, in 1889."})
    steps = run(engine, Request("a", user(ASKED), sampling))["a"]
    tokens = [token for step in steps for token in step.tokens]
    readout = steps[-1].readout
    assert readout is not None
    assert "".join(step.text for step in steps) == text
    assert steps[-1].finish_reason == reason
    assert all(step.finish_reason is None and step.readout is None for step in steps[:-1])
    assert readout.rows == len(tokens) == sum(len(step.features) for step in steps)
    assert "".join(text[t.start : t.end] for t in tokens) == text


def test_generation_and_replay_agree_exactly() -> None:
    engine, scorer = FakeEngine({"How tall": "It is 1889 metres"}), fake_detector().artifact.scorer
    steps = run(engine, Request("a", user(ASKED)))["a"]
    ids = [token.id for step in steps for token in step.tokens]
    ((again,),) = engine.replay([Asked(render(engine.tokenizer, user(ASKED)), [ids])], scorer)
    assert steps[-1].readout is not None
    assert again.logit == steps[-1].readout.logit


def test_requests_advance_in_turn_and_are_answered_as_if_alone() -> None:
    engine = FakeEngine({"How tall": "It is tall", "Who": "Nobody"})
    requests = [Request("a", user(ASKED)), Request("b", user("Who built it?"))]
    order = [name for name, _ in engine.generate(requests, fake_detector().artifact.scorer)]
    assert order[:4] == ["a", "b", "a", "b"]
    together = run(engine, *requests)
    for request in requests:
        alone = run(engine, request)[request.id]
        assert [step.text for step in together[request.id]] == [step.text for step in alone]


def test_without_an_answer_of_its_own_it_repeats_the_prompt() -> None:
    found = fake_detector().score(Example("a", user(ASKED), "The tower is 330 metres tall."))
    last = list(fake_detector().stream(Request("a", user(ASKED))))[-1]
    assert isinstance(last, Detection)
    assert found.score == pytest.approx(last.score)
    assert last.score < 0.5


def test_words_that_are_absent_from_the_prompt_are_found_and_named() -> None:
    found = fake_detector().score(Example("a", user(ASKED), "It is 1889 metres tall."))
    assert found.score is not None
    assert found.score > 0.5
    assert [span.text for span in found.spans] == ["1889"]
    assert found.contributions[0].term.name == "word absent from the prompt"
    assert found.contributions[0].token == " 1889"


def test_a_prompt_too_long_is_refused_before_the_first_step_of_any_request() -> None:
    engine = FakeEngine()
    requests = [Request("short", user(ASKED)), Request("long", user("word " * 3000))]
    with pytest.raises(PromptTooLong, match="tokens"):
        next(engine.generate(requests, fake_detector().artifact.scorer))
    with pytest.raises(PromptTooLong, match="at most 2048"):
        engine.replay([Asked([1] * 2000, [[1] * 49])], fake_detector().artifact.scorer)


def test_a_saved_fake_detector_fits_another_fake_engine(tmp_path: Path) -> None:
    before = fake_detector()
    before.artifact.save_pretrained(tmp_path)
    after = Detector(Artifact.from_pretrained(tmp_path), FakeEngine(), threshold=0.5)
    after.artifact.check_engine(after.engine)
    example = Example("a", user(ASKED), "It is 1889 metres tall.")
    assert after.score(example).score == before.score(example).score
