from __future__ import annotations

import re

import pytest

from groundwire.errors import InputError
from groundwire.training.card import render_card

FIGURES = {
    "dataset": "ragtruth-qa",
    "split": "5-fold by group",
    "rows": 552,
    "auc": 0.876,
    "auc_interval": (0.83, 0.91),
    "auc_within_generator": None,
    "threshold": 0.41,
    "balanced_accuracy": 0.8,
    "f1": 0.6,
    "brier": 0.12,
    "ece": 0.03,
    "priors": {"length": 0.747, "generator": 0.719, "absent_words": 0.829, "absent_bigrams": 0.794},
}
CARD = {
    "id": "tiny",
    "version": "1",
    "license": "apache-2.0",
    "summary": "A detector.",
    "model": {"id": "smol", "license": "Apache-2.0", "hookpoint": "model.layers.18"},
    "dictionary": {"source": "trained here", "latents": 4096, "chosen": 512, "activation": "pre"},
    "training": [{"dataset": "ragtruth-qa", "rows": 552, "unfaithful": 107, "groups": 92, "license": "MIT"}],
    "figures": [FIGURES],
    "calibration": {"scale": 1.25, "shift": -0.5, "prevalence": 0.194},
    "thresholds": {"balanced_accuracy": 0.41, "fpr<=0.05": 0.72},
    "limits": ["English only.", "Short answers."],
}


def test_card_holds_what_was_measured_beside_the_priors():
    text = render_card(CARD)
    assert (
        "| ragtruth-qa | 5-fold by group | 552 | 0.876 (0.830 to 0.910) | n/a | 0.747 | 0.719 | 0.829 | 0.794 |" in text
    )
    assert "| ragtruth-qa | 552 | 107 | 92 | MIT |" in text
    assert "| ragtruth-qa | 0.410 | 0.800 | 0.600 | 0.120 | 0.030 |" in text
    assert "| `fpr<=0.05` | 0.720 |" in text
    assert "19.4%" in text
    assert "- English only.\n- Short answers.\n" in text


def test_every_table_row_has_as_many_cells_as_its_head():
    blocks = re.findall(r"(?:^\|.*\|\n)+", render_card(CARD), flags=re.M)
    assert len(blocks) == 5
    for block in blocks:
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_undefined_figures_are_not_numbers():
    text = render_card({**CARD, "figures": [{**FIGURES, "auc": None, "auc_interval": None}]})
    assert "| 552 | n/a | n/a |" in text


@pytest.mark.parametrize("field", [*CARD, "hookpoint", "prevalence", "priors"])
def test_a_card_with_holes_is_refused(field):
    def without(value):
        if isinstance(value, dict):
            return {k: without(v) for k, v in value.items() if k != field}
        return [without(v) for v in value] if isinstance(value, list) else value

    with pytest.raises(InputError, match=f"lacks '{field}'"):
        render_card(without(CARD))
