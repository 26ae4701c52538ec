"""The token-level additive head: every token's log-odds of lying in an unfaithful span.

Two kinds of terms, both linear between two knots and constant beyond: chosen latents' pre-activations, and one residual
direction, fitted after the latents on what they leave. Contributions are taken relative to the training tokens' mean,
so a latent at its usual level adds nothing.

Answers with labelled spans give a target for every token. Answers with a label only are multiple instances: a faithful
one says 0 for every token, of an unfaithful one the best window under the head so far says 1 and the rest nothing
(mi-SVM's witnesses; Andrews, Tsochantaridis, Hofmann 2003, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.additive import Shapes
from groundwire.errors import InputError
from groundwire.prompts import tokenize_response
from groundwire.sae import Dictionary, SparseEncoder
from groundwire.training.data import LabelledExample
from groundwire.training.logistic import ridge_logistic
from groundwire.training.rows import TokenRows
from groundwire.training.tokens import inside

KNOTS = (0.001, 0.999)  # quantiles of the training tokens beyond which a term adds no more
_CHUNK = 16_384


@dataclass(frozen=True)
class HeadOptions:
    """latents: kept of the dictionary. latent_penalty, residual_penalty: ridge on standardised columns.

    window: tokens of a witness and of the pool. rounds: how often witnesses are chosen anew. tokens: most tokens that
    each data set brings, drawn at random, so that a large set does not drown the others; `most_tokens` for the rest.
    """

    latents: int = 512
    latent_penalty: float = 1000.0
    residual_penalty: float = 6000.0
    window: int = 8
    rounds: int = 1
    tokens: Mapping[str, int] = field(default_factory=dict)
    most_tokens: int = 60_000


@dataclass(frozen=True)
class Head:
    """feature_ids: chosen latents. encoder, shapes: one row and one shape for each of them, then for the direction."""

    feature_ids: tuple[int, ...]
    encoder: SparseEncoder
    shapes: Shapes

    def token_sums(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Sum of each token's contributions."""
        parts = [self.shapes(self.encoder(part)).sum(1) for part in torch.from_numpy(rows).split(_CHUNK)]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *parts]).numpy()


@dataclass(frozen=True)
class Targets:
    """Of every token: is its target known yet, and what is it. `open_answers`: unfaithful ones without spans."""

    known: np.ndarray
    unfaithful: np.ndarray
    open_answers: np.ndarray


def fit_head(
    dictionary: Dictionary,
    examples: Sequence[LabelledExample],
    rows: TokenRows,
    tokenizer: object,
    options: HeadOptions | None = None,
    *,
    seed: int = 0,
    done: Callable[[], object] = lambda: None,
) -> Head:
    """Fit on answers and their rows. Raises InputError where no answer is unfaithful or none is faithful."""
    options = options or HeadOptions()
    if {e.label for e in examples} != {0, 1}:
        raise InputError("answers with one label only", expected="faithful and unfaithful ones")
    targets = token_targets(tokenizer, examples, rows)
    if not targets.unfaithful[targets.known].any():  # no spans at all: begin with every token of an unfaithful answer
        start = Targets(
            np.ones_like(targets.known), _of_answers(rows, [e.label for e in examples]), targets.open_answers
        )
    else:
        start = targets
    ids = _choose(dictionary, rows, start, options.latents)
    latents = dictionary.select(ids.tolist(), activation="pre")
    drawn = _draw(examples, rows, options, seed)
    x, mean, deviation, knots = _standardised(latents, rows.rows, drawn)
    known, target = start.known.copy(), start.unfaithful.astype(np.float32)
    beta, intercept = torch.zeros(len(ids)), 0.0
    for round_ in range(1 + (options.rounds if len(targets.open_answers) else 0)):
        if round_:
            sums = _sums(latents, rows.rows, mean, deviation, knots, beta)
            known, target = witnesses(targets, rows, sums, options.window)
        used = known[drawn]
        beta, intercept = ridge_logistic(
            x[used], torch.from_numpy(target[drawn][used]), penalty=options.latent_penalty, steps=6
        )
        done()
    used = torch.from_numpy(known[drawn])
    offset = x[used] @ beta + intercept
    direction, bias, ends = _residual(
        rows.rows[drawn[known[drawn]]], torch.from_numpy(target[drawn][known[drawn]]), offset, options.residual_penalty
    )
    done()
    weights = (beta / deviation).double()
    low, high = knots.double()
    points = [np.array([a, b]) for a, b in zip([*low, ends[0]], [*high, ends[1]], strict=True)]
    slopes = [*weights.tolist(), 1.0]
    centres = [*mean.double().tolist(), 0.0]
    values = [w * (p - c) for w, p, c in zip(slopes, points, centres, strict=True)]
    encoder = SparseEncoder(
        weight=torch.cat([latents.weight, direction[None]]),
        bias=torch.cat([latents.bias, torch.tensor([bias])]),
        threshold=None,
        rectify=False,
    )
    return Head(tuple(int(i) for i in ids), encoder, Shapes.piecewise_linear(points, values))


def token_targets(tokenizer: object, examples: Sequence[LabelledExample], rows: TokenRows) -> Targets:
    """What the labels say of every token."""
    known, unfaithful = np.zeros(rows.offsets[-1], bool), np.zeros(rows.offsets[-1], bool)
    for i, example in enumerate(examples):
        own = slice(rows.offsets[i], rows.offsets[i + 1])
        if example.spans is not None:
            known[own] = True
            unfaithful[own] = inside(tokenize_response(tokenizer, example.response), example.spans) > 0
        elif example.label == 0:
            known[own] = True
    open_answers = [i for i, e in enumerate(examples) if e.spans is None and e.label == 1 and len_of(rows, i)]
    return Targets(known, unfaithful, np.array(open_answers, dtype=int))


def witnesses(
    targets: Targets, rows: TokenRows, sums: Float[np.ndarray, " tokens"], window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Known tokens and their targets, with the best window of every open answer taken as unfaithful."""
    known, target = targets.known.copy(), targets.unfaithful.astype(np.float32)
    for i in targets.open_answers:
        start, length = best_window(sums[rows.offsets[i] : rows.offsets[i + 1]], window)
        own = slice(rows.offsets[i] + start, rows.offsets[i] + start + length)
        known[own], target[own] = True, 1.0
    return known, target


def best_window(sums: Float[np.ndarray, " n"], window: int) -> tuple[int, int]:
    """Start and length of the first full window of the highest mean; all tokens where there are fewer."""
    if len(sums) <= window:
        return 0, len(sums)
    return int(np.convolve(sums, np.ones(window), "valid").argmax()), window


def pooled(rows: TokenRows, sums: Float[np.ndarray, " tokens"], window: int) -> Float[np.ndarray, " answers"]:
    """Mean of each answer's best window, 0 for one without tokens: what `scoring` pools."""
    found = np.zeros(len(rows))
    for i in range(len(rows)):
        own = sums[rows.offsets[i] : rows.offsets[i + 1]]
        start, length = best_window(own, window)
        found[i] = own[start : start + length].mean() if length else 0.0
    return found


def len_of(rows: TokenRows, answer: int) -> int:
    """Tokens of one answer."""
    return int(rows.offsets[answer + 1] - rows.offsets[answer])


def _of_answers(rows: TokenRows, values: Sequence[int]) -> np.ndarray:
    return np.repeat(np.asarray(values, bool), np.diff(rows.offsets))


def _choose(dictionary: Dictionary, rows: TokenRows, targets: Targets, count: int) -> np.ndarray:
    """Latents whose pre-activations correlate most with the targets, in the order of their numbers."""
    at = np.flatnonzero(targets.known)
    y = torch.from_numpy(targets.unfaithful[at]).double()
    y = y - y.mean()
    encoder = dictionary.select(range(dictionary.n_latents), activation="pre")
    total, square, product = (torch.zeros(dictionary.n_latents, dtype=torch.float64) for _ in range(3))
    for part in torch.arange(len(at)).split(_CHUNK):
        values = encoder(torch.from_numpy(rows.rows[at[part]]).float())
        total += values.sum(0)
        square += values.square().sum(0)
        product += (values * y[part, None].float()).sum(0)
    deviation = (square / len(at) - (total / len(at)) ** 2).clamp_min(1e-8).sqrt()
    return (product.abs() / deviation).topk(min(count, dictionary.n_latents)).indices.sort().values.numpy()


def _draw(examples: Sequence[LabelledExample], rows: TokenRows, options: HeadOptions, seed: int) -> np.ndarray:
    """Numbers of the tokens that are fitted on."""
    rng = np.random.default_rng(seed)
    names = np.array([e.dataset for e in examples])
    chosen = []
    for name in np.unique(names):
        own = np.flatnonzero(_of_answers(rows, (names == name).astype(int).tolist()))
        most = options.tokens.get(str(name), options.most_tokens)
        chosen.append(own if len(own) <= most else rng.choice(own, most, replace=False))
    return np.sort(np.concatenate(chosen))


def _standardised(
    encoder: SparseEncoder, rows: np.ndarray, drawn: np.ndarray
) -> tuple[Tensor, Tensor, Tensor, Float[Tensor, "two terms"]]:
    x = torch.cat(
        [encoder(torch.from_numpy(rows[part]).float()) for part in np.array_split(drawn, 1 + len(drawn) // _CHUNK)]
    )
    sample = x[:: max(1, len(x) // 50_000)]
    knots = torch.quantile(sample, torch.tensor(KNOTS), dim=0)
    knots[1] = torch.maximum(knots[1], knots[0] + 1e-3)
    x = torch.minimum(torch.maximum(x, knots[0]), knots[1])
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    return (x - mean) / deviation, mean, deviation, knots


def _sums(
    encoder: SparseEncoder, rows: np.ndarray, mean: Tensor, deviation: Tensor, knots: Tensor, beta: Tensor
) -> np.ndarray:
    parts = []
    for part in torch.from_numpy(rows).split(_CHUNK):
        x = torch.minimum(torch.maximum(encoder(part.float()), knots[0]), knots[1])
        parts.append(((x - mean) / deviation) @ beta)
    return torch.cat(parts).numpy()


def _residual(
    rows: np.ndarray, target: Tensor, offset: Tensor, penalty: float
) -> tuple[Float[Tensor, " d"], float, tuple[float, float]]:
    """Direction and bias of the log-odds that the latents leave, and the two ends of its range."""
    x = torch.from_numpy(rows).float()
    mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
    beta, _ = ridge_logistic((x - mean) / deviation, target, penalty=penalty, offset=offset, steps=4)
    direction = beta / deviation
    bias = -float(direction @ mean)
    ends = torch.quantile((x @ direction + bias)[:: max(1, len(x) // 50_000)], torch.tensor(KNOTS))
    return direction, bias, (float(ends[0]), max(float(ends[1]), float(ends[0]) + 1e-6))
