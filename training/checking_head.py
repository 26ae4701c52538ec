"""The additive head of a checking reader: its two readings, rewritten as latents and what they leave.

The adapter learned its readings with hundreds of thousands of tokens; a head fitted anew on fewer rows would only lose.
So each reading `w x + b` is regressed on the chosen latents' pre-activations (ridge, on rows the adapter never learned
from), and one residual direction holds the rest: latents and direction sum to the reading itself, but for rows beyond
the outermost of those seen. What share of the reading the latents explain is reported.

Then a response model weighs the worst sentence's end, its best window and the terms of the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundwire.additive import Shapes
from groundwire.binding import BINDING_TERMS, BindingHead, Fault, bounds
from groundwire.prompts import tokenize_response
from groundwire.sae import Dictionary, SparseEncoder
from groundwire.sentences import sentence_ends
from groundwire.training.checking import Readings
from groundwire.training.data import LabelledExample
from groundwire.training.head import KNOTS, best_window
from groundwire.training.lessons import Taught
from groundwire.training.response import ResponseModel, fit_response, with_sources
from groundwire.training.rows import TokenRows

WINDOW = 8
BINDING = tuple(BINDING_TERMS)
RIDGE = 30.0  # on standardised pre-activations, in rows: latents that fire alike share their weight
ROUNDS = 4  # of choosing the worst sentence and weighing ends against windows
DIRECTIONS = (
    "the adapter's reading at sentence ends, beyond the latents",
    "the adapter's reading of tokens, beyond the latents",
)


@dataclass(frozen=True)
class CheckingHead:
    """encoder: the chosen latents, then the two directions of `DIRECTIONS`. ends, tokens: shapes at sentence ends and
    at every token; each sums, with its constant, to a reading's log-odds. explained: R² of each reading by the latents
    alone."""

    feature_ids: tuple[int, ...]
    encoder: SparseEncoder
    ends: Shapes
    tokens: Shapes
    constants: tuple[float, float]
    explained: tuple[float, float]

    def sums(self, rows: Float[np.ndarray, "n d"], shapes: Shapes) -> Float[np.ndarray, " n"]:
        """Contributions of each row, summed."""
        parts = [shapes(self.encoder(part.float())).sum(1) for part in torch.from_numpy(rows).split(8192)]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *parts]).numpy()


def distil(
    dictionary: Dictionary, feature_ids: Sequence[int], readings: Readings, rows: TokenRows, ends: Int[np.ndarray, " m"]
) -> CheckingHead:
    """The head for chosen latents. rows: of answers the adapter did not learn from. ends: numbers of the rows at which
    sentences end."""
    latents = dictionary.select(list(feature_ids), activation="pre")
    weight = (readings.linear.weight / readings.deviation).detach()
    bias = (readings.linear.bias - weight @ readings.mean).detach().cpu()
    weight = weight.cpu()
    every = torch.arange(len(rows.rows))
    found = [
        _distilled(latents, weight[k], float(bias[k]), rows, at) for k, at in enumerate((torch.from_numpy(ends), every))
    ]
    encoder = SparseEncoder(
        weight=torch.cat([latents.weight, *(f.direction[None] for f in found)]),
        bias=torch.cat([latents.bias, torch.zeros(2)]),
        threshold=None,
        rectify=False,
    )
    shapes = []
    for k, each in enumerate(found):
        # The other reading's direction adds nothing here.
        points, values = [*each.points], [*each.values]
        own = len(points) - 1
        other = (np.array([0.0]), np.array([0.0]))
        order = [*range(own), *((own, None) if k == 0 else (None, own))]
        shapes.append(
            Shapes.piecewise_linear(
                [other[0] if i is None else points[i] for i in order],
                [other[1] if i is None else values[i] for i in order],
            )
        )
    return CheckingHead(
        tuple(int(i) for i in feature_ids),
        encoder,
        shapes[0],
        shapes[1],
        (found[0].constant, found[1].constant),
        (found[0].explained, found[1].explained),
    )


@dataclass(frozen=True)
class _Distilled:
    points: list[np.ndarray]  # of the latents, then of the direction
    values: list[np.ndarray]
    direction: Tensor
    constant: float
    explained: float


def _distilled(latents: SparseEncoder, weight: Tensor, bias: float, rows: TokenRows, at: Tensor) -> _Distilled:
    x = torch.cat([latents(torch.from_numpy(rows.rows[part]).float()) for part in at.split(8192)]).double()
    target = torch.cat([torch.from_numpy(rows.rows[part]).float() @ weight for part in at.split(8192)]).double()
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    z, centred = (x - mean) / deviation, target - target.mean()
    gram = z.T @ z + RIDGE * torch.eye(z.shape[1], dtype=torch.float64)
    beta = torch.linalg.solve(gram, z.T @ centred) / deviation
    direction = (weight.double() - beta @ latents.weight.double()).float()
    rest = target - x @ beta + (latents.bias.double() @ beta)  # what the direction itself gives: rows @ direction
    left = centred - z @ (beta * deviation)
    ends = torch.quantile(x[:: max(1, len(x) // 50_000)], torch.tensor(KNOTS, dtype=torch.float64), dim=0)
    points = [np.array([low, max(high, low + 1e-3)]) for low, high in ends.T.tolist()]
    values = [b * (p - m) for b, p, m in zip(beta.tolist(), points, mean.tolist(), strict=True)]
    low, high = torch.quantile(rest[:: max(1, len(rest) // 50_000)], torch.tensor(KNOTS, dtype=torch.float64)).tolist()
    points.append(np.array([low, max(high, low + 1e-6)]))
    values.append(points[-1] - float(rest.mean()))
    return _Distilled(
        points, values, direction, bias + float(target.mean()), 1 - float(left.var() / centred.var().clamp_min(1e-12))
    )


@dataclass(frozen=True)
class Sentences:
    """The sentences of many answers: `[sentences]` log-odds at their ends and mean of their best windows, both without
    the head's constants; `[sentences, BINDING]` sizes of faults. Those of answer i are `offsets[i]:offsets[i + 1]`."""

    ends: Float[np.ndarray, " sentences"]
    windows: Float[np.ndarray, " sentences"]
    faults: Float[np.ndarray, "sentences terms"]
    offsets: Int[np.ndarray, " answers_and_one"]

    @classmethod
    def of(
        cls,
        head: CheckingHead,
        rows: TokenRows,
        answers: Sequence[Taught],
        faults: Float[np.ndarray, "sentences terms"],
    ) -> Sentences:
        """As the head reads them. faults: as `fault_sizes` finds them."""
        tokens = head.sums(rows.rows, head.tokens)
        at = np.concatenate([a.ends + start for a, start in zip(answers, rows.offsets, strict=False)])
        ends, windows = head.sums(rows.rows[at], head.ends), []
        for answer, start in zip(answers, rows.offsets, strict=False):
            first = 0
            for last in answer.ends:
                own = tokens[start + first : start + last + 1]
                begin, length = best_window(own, WINDOW)
                windows.append(own[begin : begin + length].mean())
                first = int(last) + 1
        return cls(ends, np.array(windows), faults, np.r_[0, np.cumsum([len(a.ends) for a in answers])])

    def worst(self, end_weight: float, window_weight: float, slopes: Sequence[float]) -> Int[np.ndarray, " answers"]:
        """The number of each answer's worst sentence, the first of equals. slopes: of the faults."""
        logits = end_weight * self.ends + window_weight * self.windows + self.faults @ np.asarray(slopes)
        return np.array([a + int(logits[a:b].argmax()) for a, b in zip(self.offsets, self.offsets[1:], strict=False)])


@dataclass(frozen=True)
class SentenceModel:
    """`end_weight * end + window_weight * window + slopes @ faults + grounding` of the worst sentence is a log-odds, up
    to calibration."""

    end_weight: float
    window_weight: float
    slopes: tuple[float, ...]
    response: ResponseModel

    def binding(self) -> BindingHead | None:
        """The faults that count, as an artifact holds them; None where none does."""
        kept = [(name, slope) for name, slope in zip(BINDING, self.slopes, strict=True) if slope > 0]
        if not kept:
            return None
        shapes = Shapes.piecewise_linear([np.array([0.0, 1.0])] * len(kept), [np.array([0.0, s]) for _, s in kept])
        return BindingHead(tuple(name for name, _ in kept), shapes)

    def of_sentences(
        self, sentences: Sentences, measured: Sequence[dict[str, float]]
    ) -> list[Float[np.ndarray, " sentences"]]:
        """Log-odds of the sentences of each answer, up to calibration; its own terms count for each."""
        own = self.end_weight * sentences.ends + self.window_weight * sentences.windows
        own = own + sentences.faults @ np.asarray(self.slopes)
        grounding = self.response.grounding
        extra = [float(grounding.contributions(m).sum()) if grounding else 0.0 for m in measured]
        at = sentences.offsets
        return [own[a:b] + more for a, b, more in zip(at, at[1:], extra, strict=False)]

    def logits(self, sentences: Sentences, measured: Sequence[dict[str, float]]) -> Float[np.ndarray, " answers"]:
        return np.array([each.max() for each in self.of_sentences(sentences, measured)])


def fit_sentences(
    sentences: Sentences,
    measured: Sequence[dict[str, float]],
    labels: np.ndarray,
    datasets: np.ndarray,
    names: Sequence[str],
) -> SentenceModel:
    """Weigh ends, windows, faults and grounding terms; each round chooses the worst sentence anew, by its weights."""
    end_weight, window_weight, slopes = 1.0, 0.0, (0.0,) * len(BINDING)
    for _ in range(ROUNDS):
        at = sentences.worst(end_weight, window_weight, slopes)
        own = (
            {"window": w, **dict(zip(BINDING, g, strict=True))}
            for w, g in zip(sentences.windows[at].tolist(), sentences.faults[at].tolist(), strict=True)
        )
        extra = [{**m, **o} for m, o in zip(measured, own, strict=True)]
        response = fit_response(sentences.ends[at], extra, labels, datasets, names, also=("window", *BINDING))
        end_weight, window_weight = response.window_weight, response.also["window"]
        slopes = tuple(response.also[name] for name in BINDING)
    return SentenceModel(end_weight, window_weight, slopes, response)


def find_faults(tokenizer: Any, examples: Sequence[LabelledExample]) -> list[list[dict[str, Fault]]]:
    """Of every answer: the faults of each of its sentences, by term."""
    found = []
    for example, source in with_sources(examples):
        tokens = tokenize_response(tokenizer, example.response)
        places = bounds(tokens, sentence_ends(example.response, tokens))
        found.append(source.binding.measure(example.response, places))
    return found


def fault_sizes(found: Sequence[Sequence[Mapping[str, Fault]]]) -> Float[np.ndarray, "sentences k"]:
    """Of every sentence, in order: the size of its worst fault, by term; 0 without one."""
    sizes = [[each[name].size if name in each else 0.0 for name in BINDING] for own in found for each in own]
    return np.array(sizes).reshape(-1, len(BINDING))
