"""Verdicts on the wire where a checking reader gives them: described fields and no others, its thresholds, its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from groundwire.adapter import Adapter
from groundwire.additive import Shapes
from groundwire.artifact import Artifact
from groundwire.detector import Detector
from groundwire.engines.fake import fake_detector
from groundwire.scoring import Pooling
from groundwire.server import judgement
from groundwire.server.options import Options
from groundwire.server.permission import rules_for
from groundwire.server.settings import Settings
from groundwire.types import Detection, Verdict
from tests.server.conftest import CONTEXT, QUESTION, Served

ANSWER = "The bridge opened in 1931. It opened in Tokyo."
ASKED = {"question": QUESTION, "context": CONTEXT, "response": ANSWER}


def second(artifact: Artifact) -> Artifact:
    """That of a checking reader: an absent word speaks in its window, the full stop says nothing."""
    silent = Shapes(torch.full((2, 1), 0.5), torch.zeros(2, 2), torch.zeros(2, 2))
    return replace(
        artifact,
        id="fake-checking",
        scorer=replace(artifact.scorer, pooling=Pooling("window", 2, 1.0), intercept=-1.0, end_shapes=silent),
        thresholds={"balanced_accuracy": 0.6, "fpr<=0.1": 0.7},
        adapter=Adapter({}, 1.0),
    )


def with_checking() -> Detector:
    own = fake_detector({QUESTION: ANSWER})
    artifact = replace(own.artifact, thresholds={"balanced_accuracy": 0.5, "fpr<=0.1": 0.9})
    checking = Detector(second(artifact), own.engine, threshold=0.6)
    return Detector(artifact, own.engine, threshold=0.6, checking=checking)


@pytest.fixture(scope="module")
def served(serving: Any) -> Iterator[Served]:
    with serving(detector=with_checking()) as server:
        yield server


def judged(found: dict[str, Any]) -> judgement.Judgement:
    return judgement.Judgement.model_validate(found, extra="forbid", strict=True)


def test_rows_say_who_read_them_and_score_every_sentence(served: Served) -> None:
    reply = served.client.post("/v1/detect", json=ASKED)
    assert reply.status_code == 200, reply.text
    found = judged(reply.json()["hallucination"])
    assert found.detector is not None
    assert (found.detector.reading, found.detector.id) == ("checking", "fake-checking")
    assert [s.text for s in found.sentences] == ["The bridge opened in 1931.", "It opened in Tokyo."]
    assert [ANSWER[s.start : s.end] for s in found.sentences] == [s.text for s in found.sentences]
    assert max(s.score for s in found.sentences) == pytest.approx(found.score)
    assert found.sentences[0].score < 0.5 < found.sentences[1].score


@pytest.mark.parametrize("policy", ["annotate", "redact"])
def test_answers_of_this_server_are_judged_alike(served: Served, policy: str) -> None:
    asked = f"{CONTEXT[0]['text']}\n\n{QUESTION}"
    body = {"model": "fake", "messages": [{"role": "user", "content": asked}]}
    options = {"policy": policy, "passages": CONTEXT}
    reply = served.client.post("/v1/chat/completions", json=body | {"hallucination": options})
    assert reply.status_code == 200, reply.text
    found = judged(reply.json()["choices"][0]["hallucination"])
    assert found.detector is not None
    assert found.detector.reading == "checking"
    assert [s.text for s in found.sentences] == ["The bridge opened in 1931.", "It opened in Tokyo."]
    assert found.flagged


def test_without_a_checking_reader_there_are_no_sentences(serving: Any) -> None:
    with serving(detector=fake_detector()) as server:
        found = judged(server.client.post("/v1/detect", json=ASKED).json()["hallucination"])
    assert found.sentences == []
    assert found.detector is not None
    assert found.detector.reading == "own"


def test_another_reading_is_not_described() -> None:
    written = Verdict(with_checking().not_checked("disabled"), 0.5, None, "annotate").to_dict()
    assert judged(written).sentences == []
    written["detector"]["reading"] = "both"
    with pytest.raises(ValidationError, match="reading"):
        judged(written)
    assert judged(Verdict(Detection("not_checked", "disabled"), 0.5, None, "annotate").to_dict()).detector is None


def test_thresholds_are_the_checking_reader_s_and_halting_is_the_own_head_s(served: Served) -> None:
    detector = with_checking()
    found = rules_for(Options.model_validate({"target": "fpr<=0.1"}), Settings(), detector)
    assert found is not None
    assert found.threshold == 0.7
    own = fake_detector().artifact.thresholds
    plain = Detector(replace(detector.artifact, thresholds=dict(own)), detector.engine, threshold=0.6)
    halting = Detector(plain.artifact, plain.engine, threshold=0.6, checking=detector.checking)
    rules = [rules_for(Options(), Settings(), each) for each in (plain, halting)]
    # 0.6 is a score of the checking reader's: it does not raise where the own running score halts.
    assert [each.halt_threshold for each in rules if each is not None] == [0.6, 0.5]
    targets = served.client.get("/openapi.json").json()["components"]["schemas"]["Options"]["properties"]["target"]
    assert targets["anyOf"][0]["enum"] == ["balanced_accuracy", "fpr<=0.1"]
