"""A trained detector on disk: `config.json`, `detector.safetensors`, `features.json` and a card. No pickle anywhere.

An artifact belongs to one model, tokenizer, chat template and hookpoint. `check_engine` compares them before the first
score: hashes for tokenizer and template, a recorded activation vector for the weights, so that bfloat16, int8 or fused
weights of the same model pass and another model does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from groundwire.additive import Shapes
from groundwire.calibration import log_odds, prevalence_shift, sigmoid
from groundwire.engines.base import Engine
from groundwire.errors import ArtifactError
from groundwire.sae import SparseEncoder
from groundwire.scoring import Pooling, Scorer
from groundwire.spans import SpanRule
from groundwire.types import Term

FORMAT_VERSION = 1
PROBE_TEXT = "The passages say that the tower was finished in 1889, and that it is 330 metres tall."
PROBE_COSINE = 0.99  # bfloat16 and int8 stay above, another model does not


@dataclass(frozen=True)
class Probe:
    """A token sequence and the residual row of its last token, as the detector's training saw it."""

    ids: Int[Tensor, " tokens"]
    row: Float[Tensor, " d"]

    @classmethod
    def record(cls, engine: Engine) -> Probe:
        """Run `PROBE_TEXT` through the engine."""
        ids = engine.tokenizer(PROBE_TEXT, add_special_tokens=False)["input_ids"]
        return cls(torch.tensor(ids), engine.read(ids)[-1].cpu())


@dataclass(frozen=True)
class Artifact:
    """Everything a `Detector` needs besides the engine.

    model: id of the base model. fingerprint: hashes of what it was trained with. thresholds: score by target.
    prevalence: share of unfaithful answers that the calibration assumes. about: dictionary, training data with
    licences, figures; for the card and for people, never read by the code that scores.
    """

    id: str
    version: str
    model: str
    fingerprint: Mapping[str, str]
    hookpoint: str
    scorer: Scorer
    terms: tuple[Term, ...]
    thresholds: Mapping[str, float]
    prevalence: float
    spans: SpanRule
    probe: Probe
    latents: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the artifact; an existing one in `folder` is overwritten."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        scorer, encoder = self.scorer, self.scorer.encoder
        config = {
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "version": self.version,
            "model": self.model,
            "fingerprint": dict(self.fingerprint),
            "hookpoint": self.hookpoint,
            "activation": {"rectify": encoder.rectify},
            "pooling": asdict(scorer.pooling),
            "intercept": scorer.intercept,
            "token_intercept": scorer.token_intercept,
            "token_scale": scorer.token_scale,
            "spans": asdict(self.spans),
            "thresholds": dict(self.thresholds),
            "prevalence": self.prevalence,
            "terms": [asdict(term) for term in self.terms],
            "about": dict(self.about),
        }
        tensors = {
            "encoder.weight": encoder.weight,
            "encoder.bias": encoder.bias,
            "shapes.cuts": scorer.shapes.cuts,
            "shapes.values": scorer.shapes.values,
            "shapes.slopes": scorer.shapes.slopes,
            "probe.ids": self.probe.ids,
            "probe.row": self.probe.row,
        }
        if encoder.threshold is not None:
            tensors["encoder.threshold"] = encoder.threshold
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "detector.safetensors")
        (folder / "features.json").write_text(json.dumps(self.latents, indent=1, ensure_ascii=False), encoding="utf-8")
        (folder / "README.md").write_text(self.card, encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Artifact:
        """Read an artifact. Raises ArtifactError on a missing, damaged or newer one, naming what is wrong."""
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "detector.safetensors")
            latents = json.loads((folder / "features.json").read_text(encoding="utf-8"))
            card = (folder / "README.md").read_text(encoding="utf-8")
        except (OSError, ValueError, SafetensorError) as error:
            raise ArtifactError(
                f"no readable detector in {folder}: {error}",
                expected="a folder with config.json, detector.safetensors, features.json and README.md",
                remedy="pass the folder that `groundwire train detector` wrote",
            ) from error
        version = config.get("format_version") if isinstance(config, dict) else None
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"{folder} has format version {version}",
                expected=f"version {FORMAT_VERSION}",
                remedy="install the groundwire version that wrote it, or train the detector anew",
            )
        try:
            return cls._from_parts(config, tensors, latents, card)
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{folder}: {error!r} in config.json or detector.safetensors",
                expected="exactly the keys of this format version",
                remedy="restore the folder as `groundwire train detector` wrote it",
            ) from error

    @classmethod
    def _from_parts(cls, config: dict[str, Any], tensors: dict[str, Tensor], latents: Any, card: str) -> Artifact:
        encoder = SparseEncoder(
            weight=tensors["encoder.weight"],
            bias=tensors["encoder.bias"],
            threshold=tensors.get("encoder.threshold"),
            rectify=config["activation"]["rectify"],
        )
        shapes = Shapes(tensors["shapes.cuts"], tensors["shapes.values"], tensors["shapes.slopes"])
        terms = tuple(Term(**term) for term in config["terms"])
        probe = Probe(tensors["probe.ids"], tensors["probe.row"])
        _check_shapes(encoder, shapes, terms, probe)
        scorer = Scorer(
            encoder=encoder,
            shapes=shapes,
            intercept=config["intercept"],
            pooling=_pooling(config["pooling"]),
            token_intercept=config["token_intercept"],
            token_scale=config["token_scale"],
        )
        return cls(
            id=config["id"],
            version=config["version"],
            model=config["model"],
            fingerprint=config["fingerprint"],
            hookpoint=config["hookpoint"],
            scorer=scorer,
            terms=terms,
            thresholds=config["thresholds"],
            prevalence=config["prevalence"],
            spans=SpanRule(**config["spans"]),
            probe=probe,
            latents=latents,
            about=config["about"],
            card=card,
        )

    def at_prevalence(self, prevalence: float) -> Artifact:
        """The same detector where a share `prevalence` of answers is unfaithful: scores and thresholds shift alike.

        Raises InputError where `prevalence` is not between 0 and 1.
        """
        shift = prevalence_shift(self.prevalence, prevalence)
        return replace(
            self,
            scorer=replace(self.scorer, intercept=self.scorer.intercept + shift),
            thresholds={name: _shifted(score, shift) for name, score in self.thresholds.items()},
            prevalence=prevalence,
        )

    def check_engine(self, engine: Engine) -> None:
        """Raise ArtifactError, naming what differs, unless `engine` runs the model this detector was trained on."""
        if engine.hookpoint != self.hookpoint:
            raise self._mismatch("hookpoint", engine.hookpoint, self.hookpoint)
        for part in ("tokenizer", "chat_template"):
            if engine.fingerprint.get(part) != self.fingerprint.get(part):
                raise self._mismatch(
                    part.replace("_", " "), f"{engine.fingerprint.get(part)}", f"{self.fingerprint.get(part)}"
                )
        row = engine.read(self.probe.ids.tolist())[-1].cpu().float()
        if row.shape != self.probe.row.shape:
            raise self._mismatch("width", f"{row.shape[0]} dimensions", f"{self.probe.row.shape[0]}")
        cosine = float(torch.cosine_similarity(row, self.probe.row, dim=0))
        if not cosine >= PROBE_COSINE:
            given = f"activations with cosine {cosine:.4f} to the recorded ones, from {engine.model_id}"
            raise self._mismatch("model", given, f"at least {PROBE_COSINE}, from {self.model}")

    def _mismatch(self, what: str, given: str, expected: str) -> ArtifactError:
        return ArtifactError(
            f"detector {self.id} does not fit: its {what} differs: {given}",
            expected=expected,
            remedy=f"load the model it was trained on ({self.model}), or train a detector for yours",
        )


def _shifted(score: float, shift: float) -> float:
    return sigmoid(log_odds(score) + shift) if 0 < score < 1 else score  # always and never stay what they are


def _pooling(values: Mapping[str, Any]) -> Pooling:
    if values["kind"] not in ("max", "window") or not values["window"] >= 1:
        raise ArtifactError(
            f"pooling {dict(values)}",
            expected='kind "max", or "window" of one token or more',
            remedy="install the groundwire version that wrote it, or train the detector anew",
        )
    return Pooling(**values)


def _check_shapes(encoder: SparseEncoder, shapes: Shapes, terms: tuple[Term, ...], probe: Probe) -> None:
    numbers = {"terms": len(terms), "shapes": shapes.terms, "encoder rows": encoder.weight.shape[0]}
    widths = {"encoder columns": encoder.weight.shape[1], "probe dimensions": probe.row.shape[0]}
    for counts in (numbers | {"encoder biases": encoder.bias.shape[0]}, widths):
        if len(set(counts.values())) > 1:
            raise ArtifactError(
                ", ".join(f"{count} {name}" for name, count in counts.items()),
                expected="the same number of each",
                remedy="restore the folder as `groundwire train detector` wrote it",
            )
