from __future__ import annotations

import pytest

from groundwire.errors import ArtifactError
from groundwire.terms_page.latents import Example, Latent, latent

GOOD = {
    "label": "x",
    "top_tokens": [" a"],
    "promotes": ["b"],
    "examples": [{"activation": 2, "before": "it is ", "token": " a", "after": ""}],
}


def test_what_training_writes_is_read():
    assert latent({"7": GOOD}, 7) == Latent((" a",), ("b",), (Example("it is ", " a", "", 2.0),))


@pytest.mark.parametrize("feature_id", [8, None])
def test_nothing_known_is_none(feature_id):
    assert latent({"7": GOOD}, feature_id) is None


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"top_tokens": "a"}, "7: top_tokens is str"),
        ({"promotes": [1]}, "7: promotes is list"),
        ({"examples": None}, "7: examples is NoneType"),
        ({"examples": ["a"]}, r"7: examples\[0\] is str"),
        ({"examples": [GOOD["examples"][0] | {"activation": "2"}]}, r"examples\[0\]: activation is str"),
        ({"examples": [{"activation": 2.0, "before": "", "token": ""}]}, r"examples\[0\] is list"),
    ],
)
def test_what_training_never_writes_is_refused_by_its_place(change, place):
    with pytest.raises(ArtifactError, match=place):
        latent({"7": GOOD | change}, 7)


@pytest.mark.parametrize("latents", [[GOOD], {"7": "x"}])
def test_only_objects_are_read(latents):
    with pytest.raises(ArtifactError, match="an object"):
        latent(latents, 7)
