from __future__ import annotations

from groundwire.batch.described import Described
from groundwire.batch.identity import detector_identity
from groundwire.batch.units import CHARACTERS
from groundwire.engines.fake import fake_detector
from tests.detector.batch.test_score import WordDetector


def test_it_says_what_the_detector_says():
    found = Described.of(fake_detector())
    assert found.threshold == 0.5
    assert found.identity == detector_identity(fake_detector())
    assert found.features is not None
    assert found.characters == CHARACTERS
    assert [term["name"] for term in found.features["terms"]] == ["word absent from the prompt", "word of the prompt"]


def test_a_detector_need_not_have_terms():
    assert Described.of(WordDetector()).features is None
