"""The model card: an artifact's README.md, rendered from what its config records. Pure: a dictionary in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from groundwire.errors import InputError

_CARD = """---
library_name: groundwire
license: {license}
base_model: {model[id]}
tags: [hallucination-detection, RAG, sparse-autoencoder]
---

# {id}

{summary}

It reads the residual stream of one language model, encodes it with a sparse dictionary and adds up shape functions of
the chosen latents. The score is the calibrated probability that a response is **unfaithful** to its passages.

| | |
| --- | --- |
| version | {version} |
| base model | {model[id]} |
| hookpoint | `{model[hookpoint]}` |
| dictionary | {dictionary[source]}, {dictionary[latents]} latents, {dictionary[chosen]} used |
| activation | {dictionary[activation]} |

```python
from groundwire import Detector

detector = Detector.from_pretrained("folder-of-this-card")
```

## Training data

{training}

## Figures

AUC with its 95 % interval (bootstrap over groups) and within a generator (mean over generators with at least five rows
of each label), beside what needs no model at all: the AUC of the response's length, of which generator wrote it, of
the number of response words absent from the prompt, and of the longest run of response bigrams absent from it. The
detector is worth what it adds to these.

{figures}

Decisions and calibration on the same rows:

{decisions}

## Thresholds

Scores are calibrated (scale {calibration[scale]:.4g}, shift {calibration[shift]:.4g}) on rows of which
{calibration[prevalence]:.1%} were unfaithful. Where your share differs, shift the prevalence before reading a score as
a probability.

{thresholds}

## Limits

{limits}
"""

_RANKING_HEAD = [
    *("data set", "rows held out", "rows", "AUC", "within generator"),
    *("length", "generator", "absent words", "absent bigrams"),
]


def render_card(card: Mapping[str, Any]) -> str:
    """README.md of an artifact.

    card:
        id, version, license, summary: strings
        model: {"id", "hookpoint"}
        dictionary: {"source", "latents", "chosen", "activation"}
        training: a list of {"dataset", "rows", "unfaithful", "groups", "license"}
        figures: a list of {"dataset", "split"} with what `metrics.figures` returns; `split` says how the rows were held
            out ("5-fold by group", "never trained on")
        calibration: {"scale", "shift", "prevalence"}
        thresholds: score by target
        limits: a list of sentences

    Raises InputError naming the first field that is missing: a card with holes is not written.
    """
    try:
        tables = {
            "training": _table(
                ["data set", "rows", "unfaithful", "groups", "licence of the labels"],
                ([d["dataset"], d["rows"], d["unfaithful"], d["groups"], d["license"]] for d in card["training"]),
            ),
            "figures": _table(
                _RANKING_HEAD,
                (_ranking(f) for f in card["figures"]),
            ),
            "decisions": _table(
                ["data set", "threshold", "balanced accuracy", "F1", "Brier", "ECE"],
                (_decisions(f) for f in card["figures"]),
            ),
            "thresholds": _table(
                ["target", "threshold"], ([f"`{k}`", _number(v)] for k, v in card["thresholds"].items())
            ),
            "limits": "\n".join(f"- {limit}" for limit in card["limits"]),
        }
        return _CARD.format(**{**card, **tables})
    except KeyError as error:
        raise InputError(
            f"the card lacks {error.args[0]!r}", expected="every field that render_card documents", remedy="record it"
        ) from error


def _ranking(figures: Mapping[str, Any]) -> list[str]:
    interval = figures["auc_interval"]
    low_high = f" ({_number(interval[0])} to {_number(interval[1])})" if interval else ""
    priors = (figures["priors"][name] for name in ("length", "generator", "absent_words", "absent_bigrams"))
    counted = [figures["dataset"], figures["split"], figures["rows"], _number(figures["auc"]) + low_high]
    return [*map(str, counted), _number(figures["auc_within_generator"]), *map(_number, priors)]


def _decisions(figures: Mapping[str, Any]) -> list[str]:
    names = ("threshold", "balanced_accuracy", "f1", "brier", "ece")
    return [figures["dataset"], *(_number(figures[name]) for name in names)]


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [list(head), ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
