from __future__ import annotations

import pytest

from groundwire.batch.recipe import Recipe
from groundwire.batch.unit import BatchDetector
from groundwire.detector import Detector
from groundwire.errors import ArtifactError, ModelError


@pytest.mark.model
@pytest.mark.usefixtures("reader")
def test_it_loads_the_detector_that_from_pretrained_loads():
    recipe = Recipe(prevalence=0.1)
    detector = recipe.load()
    assert isinstance(detector, BatchDetector)
    assert detector.threshold == Detector.from_pretrained(prevalence=0.1).threshold == recipe.read_threshold()
    assert recipe.shared() is Recipe(prevalence=0.1).shared()
    assert Recipe(threshold=0.25)().threshold == 0.25


def test_the_threshold_is_known_without_the_model():
    assert 0 < Recipe(model="nowhere/at-all").read_threshold() < 1
    assert Recipe(threshold=0.25).read_threshold() == 0.25


def test_what_cannot_be_loaded_raises(tmp_path):
    with pytest.raises(ArtifactError):
        Recipe(str(tmp_path)).read_artifact()
    with pytest.raises(ModelError):
        Recipe(model=str(tmp_path / "nowhere")).load()
