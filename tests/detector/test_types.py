"""How a verdict is written: it can be checked from its own numbers, and silence never looks like a clean bill."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.calibration import sigmoid
from groundwire.types import (
    KINDS,
    Contribution,
    Detection,
    Request,
    Sampling,
    SentenceScore,
    Span,
    Term,
    TokenScore,
    Verdict,
)


def detection(contributions: list[float], intercept: float = -1.0, **more: Any) -> Detection:
    logit = intercept + sum(contributions)
    terms = [Contribution(Term("latent", f"t{i}", i), c, " x", 3) for i, c in enumerate(contributions)]
    return Detection(
        "checked",
        score=sigmoid(logit),
        logit=logit,
        intercept=intercept,
        contributions=tuple(sorted(terms, key=lambda c: -abs(c.contribution))),
        **more,
    )


@given(st.lists(st.floats(-3, 3), max_size=12), st.floats(-3, 3), st.integers(0, 14))
def test_a_verdict_can_be_checked_from_its_own_numbers(contributions, intercept, top_terms):
    written = Verdict(detection(contributions, intercept), 0.5, False, "annotate").to_dict(top_terms=top_terms)
    listed = [term["contribution"] for term in written["terms"]]
    assert len(listed) == min(top_terms, len(contributions))
    logit = written["intercept"] + written["other"] + sum(listed)
    assert logit == pytest.approx(written["logit"], abs=1e-9)
    assert sigmoid(logit) == pytest.approx(written["score"], abs=1e-9)
    assert sorted(map(abs, listed), reverse=True) == sorted(map(abs, contributions), reverse=True)[:top_terms]


def test_a_checked_verdict_is_written_in_full():
    evidence = {"passage_id": "2", "start": 0, "end": 4, "text": "1889", "similarity": 0.7}
    why = "“1890” is not in the passages."
    found = detection(
        [2.0, 0.25],
        spans=(Span(3, 7, "1890", 0.9, evidence, why),),
        tokens=(TokenScore("In ", 0, 3, 0.1), TokenScore("1890", 3, 7, 0.9)),
        unlike_training={"distance": 1.5, "quantile": 0.995, "flag": True},
        sentences=(SentenceScore(0, 7, "In 1890", 0.77, why),),
        detector={"id": "d", "version": "1"},
    )
    verdict = Verdict(found, threshold=0.5, flagged=True, action="annotate")
    assert (verdict.status, verdict.score, verdict.spans) == ("checked", found.score, found.spans)
    assert verdict.to_dict(top_terms=1) == {
        "status": "checked",
        "reason": None,
        "score": sigmoid(1.25),
        "flagged": True,
        "threshold": 0.5,
        "action": "annotate",
        "explanation": why,
        "logit": 1.25,
        "intercept": -1.0,
        "other": 0.25,
        "shares": {"latent": 2.25, "grounding": 0.0, "residual": 0.0},
        "unlike_training": {"distance": 1.5, "quantile": 0.995, "flag": True},
        "detector": {"id": "d", "version": "1"},
        "spans": [
            {
                "start": 3,
                "end": 7,
                "text": "1890",
                "score": 0.9,
                "evidence": evidence,
                "reason": why,
            }
        ],
        "sentences": [{"start": 0, "end": 7, "text": "In 1890", "score": 0.77, "reason": why}],
        "terms": [
            {"kind": "latent", "name": "t0", "feature_id": 0, "contribution": 2.0, "token": " x", "start": 3},
        ],
        "tokens": None,
    }
    assert verdict.to_dict(tokens=True)["tokens"] == [
        {"token": "In ", "start": 0, "end": 3, "score": 0.1},
        {"token": "1890", "start": 3, "end": 7, "score": 0.9},
    ]
    assert json.loads(json.dumps(verdict.to_dict(tokens=True))) == verdict.to_dict(tokens=True)


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.floats(-3, 3)), max_size=12), st.integers(0, 3))
def test_shares_sum_all_terms_by_kind_listed_or_not(contributions, top_terms):
    found = tuple(Contribution(Term(kind, "t"), value) for kind, value in contributions)
    written = Verdict(Detection("checked", contributions=found), 0.5, False, "annotate").to_dict(top_terms=top_terms)
    assert list(written["shares"]) == list(KINDS)
    for kind in KINDS:
        assert written["shares"][kind] == pytest.approx(sum(v for k, v in contributions if k == kind))


def test_what_was_not_checked_has_no_numbers():
    found = Detection("not_checked", reason="no_passages", detail="none of 2 messages holds a passage")
    assert not found.checked
    written = Verdict(found, None, None, "annotate").to_dict(tokens=True)
    for name in ("score", "flagged", "threshold", "logit", "intercept", "other", "tokens", "detector"):
        assert written[name] is None, name
    assert (written["shares"], written["unlike_training"]) == (None, None)
    assert (written["status"], written["reason"]) == ("not_checked", "no_passages")
    assert written["spans"] == written["sentences"] == []
    assert written["detail"] == "none of 2 messages holds a passage"


def test_values_are_frozen_and_requests_do_not_share_sampling_by_accident():
    request = Request("a", [{"role": "user", "content": "hi"}])
    assert request.sampling == Sampling()
    with pytest.raises(FrozenInstanceError):
        request.sampling.temperature = 1.0  # type: ignore[misc]
