"""A trained detector on disk: `config.json`, `detector.safetensors`, `features.json` and a card. No pickle anywhere.

An artifact belongs to one model, tokenizer, chat template and hookpoint. `check_engine` compares them before the first
score: hashes for tokenizer and template, a recorded activation vector for the weights, so that bfloat16, int8 or fused
weights of the same model pass and another model does not.

An artifact may hold a second one in the folder `checking`: that of the checking reader, which reads an answer once more
with an adapter (PEFT's two files) on its tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from groundwire.adapter import Adapter
from groundwire.additive import Shapes
from groundwire.binding import BindingHead
from groundwire.calibration import log_odds, prevalence_shift, sigmoid
from groundwire.engines.base import Engine
from groundwire.errors import ArtifactError
from groundwire.grounding import GroundingHead
from groundwire.sae import SparseEncoder
from groundwire.scoring import Pooling, Scorer
from groundwire.spans import SpanRule
from groundwire.types import Term
from groundwire.unlike import Unlike

FORMAT_VERSION = 4
READABLE = (2, 3, FORMAT_VERSION)  # 2 had no checking reader, 3 no binding terms
CHECKING = "checking"  # the folder of the checking reader's artifact
PROBE_TEXT = "The passages say that the tower was finished in 1889, and that it is 330 metres tall."
SHAPES, UNLIKE = ("cuts", "values", "slopes"), ("mean", "projection", "quantiles")  # names of their tensors
T = TypeVar("T", Pooling, SpanRule, Unlike)
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

    model: id of the base model. fingerprint: hashes of what it was trained with. terms: those of the scorer's encoder,
    then those of `binding` and of `grounding`. thresholds: score by target. prevalence: share of unfaithful answers
    that the calibration assumes. grounding, binding: terms of the texts, by response and by sentence, or None. unlike:
    what tells how far an answer lies from the training data, or None. adapter: active on the answer's tokens while they
    are read, or None. focus: how many passage sentences each sentence of the answer is read with; 0 for the whole
    prompt. checking: the artifact of the checking reader, or None. about: dictionary, training data with licences,
    figures; for the card and for people, never read by the code that scores.
    Raises ArtifactError where the parts' numbers of terms differ, saying which.
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
    grounding: GroundingHead | None = None
    binding: BindingHead | None = None
    unlike: Unlike | None = None
    adapter: Adapter | None = None
    focus: int = 0
    checking: Artifact | None = None
    latents: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""

    def __post_init__(self) -> None:
        encoder = self.scorer.encoder
        names = [name for head in (self.binding, self.grounding) if head for name in head.names]
        by_token = [term for term in self.terms if term.kind != "grounding"]
        numbers = {
            "token terms": len(by_token),
            "shapes": self.scorer.shapes.terms,
            "encoder rows": encoder.weight.shape[0],
            "encoder biases": encoder.bias.shape[0],
        }
        if self.scorer.end_shapes is not None:
            numbers["shapes of sentence ends"] = self.scorer.end_shapes.terms
        if self.binding is not None and self.scorer.end_shapes is None:
            raise ArtifactError(
                "binding terms without sentence ends",
                expected="a checking reader, which judges by sentences",
                remedy="restore the folder as `groundwire train reader` wrote it",
            )
        if self.scorer.end_shapes is not None and self.adapter is None:
            raise ArtifactError(
                "sentence ends without an adapter",
                expected="sentences read by a checking reader: a generation does not know where they end",
                remedy="restore the folder as `groundwire train reader` wrote it",
            )
        _check_equal(numbers | ({"training means": self.unlike.terms} if self.unlike else {}))
        _check_equal({"terms of the texts": len(self.terms) - len(by_token), "their names": len(names)})
        _check_equal({"encoder columns": encoder.weight.shape[1], "probe dimensions": self.probe.row.shape[0]})
        if list(self.terms[: len(by_token)]) != by_token:
            raise ArtifactError(
                "grounding terms among the token terms", expected="all token terms first", remedy="put them at the end"
            )

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
            "token_smoothing": scorer.token_smoothing,
            "spans": asdict(self.spans),
            "thresholds": dict(self.thresholds),
            "prevalence": self.prevalence,
            "terms": [asdict(term) for term in self.terms],
            "grounding": list(self.grounding.names) if self.grounding else None,
            "binding": list(self.binding.names) if self.binding else None,
            "unlike": {"flag_above": self.unlike.flag_above} if self.unlike else None,
            "ends": scorer.end_shapes is not None,
            "adapter": self.adapter is not None,
            "focus": self.focus,
            CHECKING: self.checking is not None,
            "about": dict(self.about),
        }
        tensors = {
            "encoder.weight": encoder.weight,
            "encoder.bias": encoder.bias,
            **_parts("shapes", scorer.shapes, SHAPES),
            **_parts("probe", self.probe, ("ids", "row")),
            **(_parts("ends", scorer.end_shapes, SHAPES) if scorer.end_shapes else {}),
            **(_parts("grounding", self.grounding.shapes, SHAPES) if self.grounding else {}),
            **(_parts("binding", self.binding.shapes, SHAPES) if self.binding else {}),
            **(_parts("unlike", self.unlike, UNLIKE) if self.unlike else {}),
        }
        if encoder.threshold is not None:
            tensors["encoder.threshold"] = encoder.threshold
        # Copies: shapes at sentence ends may share their cuts with those of tokens.
        save_file({k: v.clone().contiguous() for k, v in tensors.items()}, folder / "detector.safetensors")
        (folder / "features.json").write_text(json.dumps(self.latents, indent=1, ensure_ascii=False), encoding="utf-8")
        (folder / "README.md").write_text(self.card, encoding="utf-8")
        if self.adapter is not None:
            self.adapter.save_pretrained(folder, base_model=self.model)
        if self.checking is not None:
            self.checking.save_pretrained(folder / CHECKING)
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
        if version not in READABLE:
            raise ArtifactError(
                f"{folder} has format version {version}",
                expected=f"version {FORMAT_VERSION}",
                remedy="install the groundwire version that wrote it, or train the detector anew",
            )
        try:
            if version == 2:
                config |= {"ends": False, "adapter": False, "focus": 0, CHECKING: False}
            if version <= 3:
                config |= {"binding": None, "spans": {**config["spans"], "sentence": 0.0, "fault": None}}
            adapter = Adapter.from_pretrained(folder) if config["adapter"] else None
            checking = cls.from_pretrained(folder / CHECKING) if config[CHECKING] else None
            return cls._from_parts(config, tensors, latents, card, adapter=adapter, checking=checking)
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{folder}: {error!r} in config.json or detector.safetensors",
                expected="exactly the keys of this format version",
                remedy="restore the folder as `groundwire train detector` wrote it",
            ) from error

    @classmethod
    def of_detector(cls, folder: str | Path) -> Artifact:
        """Read an artifact that a whole detector can be made of: not that of a checking reader alone, whose adapter
        generation knows nothing of. Raises what `from_pretrained` raises."""
        found = cls.from_pretrained(folder)
        if found.adapter is not None:
            raise ArtifactError(
                f"{found.id} is the artifact of a checking reader alone",
                expected="that of a detector which has it",
                remedy="pass the folder that holds this one",
            )
        return found

    @classmethod
    def _from_parts(
        cls,
        config: dict[str, Any],
        tensors: dict[str, Tensor],
        latents: Any,
        card: str,
        *,
        adapter: Adapter | None,
        checking: Artifact | None,
    ) -> Artifact:
        encoder = SparseEncoder(
            weight=tensors["encoder.weight"],
            bias=tensors["encoder.bias"],
            threshold=tensors.get("encoder.threshold"),
            rectify=config["activation"]["rectify"],
        )
        scorer = Scorer(
            encoder=encoder,
            shapes=Shapes(*(tensors[f"shapes.{name}"] for name in SHAPES)),
            intercept=config["intercept"],
            pooling=_made(Pooling, config["pooling"]),
            token_intercept=config["token_intercept"],
            token_scale=config["token_scale"],
            token_smoothing=config["token_smoothing"],
            end_shapes=Shapes(*(tensors[f"ends.{name}"] for name in SHAPES)) if config["ends"] else None,
        )
        names, bound, unlike = config["grounding"], config["binding"], config["unlike"]
        shapes = Shapes(*(tensors[f"grounding.{name}"] for name in SHAPES)) if names else None
        by_sentence = Shapes(*(tensors[f"binding.{name}"] for name in SHAPES)) if bound else None
        return cls(
            id=config["id"],
            version=config["version"],
            model=config["model"],
            fingerprint=config["fingerprint"],
            hookpoint=config["hookpoint"],
            scorer=scorer,
            terms=tuple(Term(**term) for term in config["terms"]),
            thresholds=config["thresholds"],
            prevalence=config["prevalence"],
            spans=_made(SpanRule, config["spans"]),
            probe=Probe(tensors["probe.ids"], tensors["probe.row"]),
            grounding=GroundingHead(tuple(names), shapes) if shapes else None,
            binding=BindingHead(tuple(bound), by_sentence) if by_sentence else None,
            unlike=_made(Unlike, {name: tensors[f"unlike.{name}"] for name in UNLIKE} | unlike) if unlike else None,
            adapter=adapter,
            focus=_sentences(config["focus"]),
            checking=checking,
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
            spans=replace(self.spans, sentence=_shifted(self.spans.sentence, shift)),
            prevalence=prevalence,
            checking=self.checking.at_prevalence(prevalence) if self.checking else None,
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


def _sentences(focus: object) -> int:
    if type(focus) is int and focus >= 0:
        return focus
    raise ArtifactError(
        f"a focus of {focus!r}",
        expected="a number of passage sentences, 0 for the whole prompt",
        remedy="restore the folder as `groundwire train reader` wrote it",
    )


def _made(kind: type[T], values: Mapping[str, Any]) -> T:
    """`kind(**values)`, with every field given: no default stands in for what was lost."""
    if lacking := {f.name for f in fields(kind)} - set(values):
        raise KeyError(*sorted(lacking))
    return kind(**values)


def _parts(prefix: str, part: object, names: Sequence[str]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": getattr(part, name) for name in names}


def _check_equal(counts: Mapping[str, int]) -> None:
    if len(set(counts.values())) > 1:
        raise ArtifactError(
            ", ".join(f"{count} {name}" for name, count in counts.items()),
            expected="the same number of each",
            remedy="restore the folder as `groundwire train detector` wrote it",
        )
