"""Trains the checking reader: a low-rank adapter that makes the model's residual stream tell what its passages lack.

Prompts are read by the base model, without gradient; answers behind their keys and values by the adapted one. At the
hookpoint two linear readings of the standardised residual are learned with the adapter: one at the last token of each
sentence (is the sentence unfaithful?), one at every token (does it lie in an unfaithful span?). The loss is the binary
cross-entropy of both, that of the worst sentence for answers without spans, and a margin within pairs that differ by
one mistake. The additive head of an artifact is fitted afterwards, on the adapted residual.

Long: the state is written every so many steps, and the same command goes on from it.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from groundwire.adapter import Adapter
from groundwire.capture import adapted, capture, find_module, run_until_it_ends
from groundwire.engines.packed import Pack, Prefix, depth, packing
from groundwire.engines.replay import PackedReplay, replaying
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import InputError
from groundwire.training.lessons import Lesson, mixed

MOST_UNITS = 2000  # drawn for one step: more, and hardly any row is short enough
STATE, PROGRESS, LOG = "state.safetensors", "progress.json", "log.jsonl"


@dataclass(frozen=True)
class CheckingOptions:
    """rank, alpha: of the adapter. rate, head_rate: peak learning rates. answer_tokens: of one step, about.

    focus: passage sentences that a sentence of an answer is read with, in the lessons; 0 for the whole prompt.
    steps: in all; the rate rises over `warm_up` of them and falls to nothing over the last `cool_down` share.
    tokens_weight, margin_weight: of the losses besides that of sentences. margin: log-odds wanted within a pair.
    """

    rank: int = 16
    alpha: float = 32.0
    focus: int = 0
    rate: float = 4e-4
    head_rate: float = 1e-3
    answer_tokens: int = 450
    steps: int = 1500
    warm_up: int = 40
    cool_down: float = 0.4
    tokens_weight: float = 0.4
    margin_weight: float = 0.3
    margin: float = 2.0
    save_every: int = 50
    seed: int = 0


class Readings(nn.Module):
    """Two linear readings of the standardised residual: row 0 at sentence ends, row 1 at every token."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.linear = nn.Linear(len(mean), 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)  # whatever torch drew: a run is its seed's

    def forward(self, rows: Tensor) -> Tensor:
        """Log-odds `[rows, 2]`."""
        return self.linear((rows.float() - self.mean) / self.deviation)


Sources = Mapping[str, tuple[float, Sequence[Callable[[], list[Lesson]]]]]


class Checking:
    """An adapter and its readings on an engine's model, and how both are trained."""

    def __init__(self, engine: TransformersEngine, adapter: Adapter, readings: Readings) -> None:
        self.engine, self.adapter, self.readings = engine, adapter, readings
        self._depth = depth(engine.hookpoint, engine.model)

    @classmethod
    def new(
        cls,
        engine: TransformersEngine,
        lessons: Sequence[Lesson],
        options: CheckingOptions,
        start: Adapter | None = None,
    ) -> Checking:
        """Readings of zero, on the residual standardised on the answers of `lessons`.

        start: an adapter to go on from; None for one that changes nothing yet.
        Raises InputError on a model that cannot be taught like this.
        """
        adapter = Adapter.new(engine.model, _layers(engine), options.rank, options.alpha, options.seed)
        if not adapter.weights:
            raise InputError(
                f"the layers of {engine.model_id} have no linear layers of the common kind",
                expected="a model of torch.nn.Linear, such as Llama, Qwen or SmolLM2; GPT-2 has others",
                remedy="choose another model; its own reading needs no adapter",
            )
        if start is not None:
            adapter = replace(start, weights={path: (a.clone(), b.clone()) for path, (a, b) in start.weights.items()})
        adapter = adapter.to(engine.device, torch.float32)
        for part in adapter.parameters():
            part.requires_grad_(True)
        made = cls(engine, adapter, Readings(torch.zeros(1), torch.ones(1)))
        with torch.no_grad():
            rows = made.rows(lessons).float()
        made.readings = Readings(rows.mean(0), rows.std(0) + 1e-3).to(engine.device)
        return made

    def prefixes(self, lessons: Sequence[Lesson]) -> list[Prefix]:
        """The prompts' keys and values, by the base model."""
        pack = Pack([(lesson.prompt, None) for lesson in lessons], self.engine.device, keep=True, depth=self._depth)
        with packing(self.engine.model):
            run_until_it_ends(self.engine.model, **pack.inputs())
        # What was made in inference mode cannot be saved for gradients.
        return [Prefix(p.ids, [(k.clone(), v.clone()) for k, v in p.layers]) for p in pack.kept]

    def rows(self, lessons: Sequence[Lesson], prefixes: Sequence[Prefix] | None = None) -> Tensor:
        """Adapted residual rows `[tokens, d]` of all answers, in order."""
        prefixes = prefixes or self.prefixes(lessons)
        sequences: list[tuple[Sequence[int], Prefix | None]] = []
        for lesson, prefix in zip(lessons, prefixes, strict=True):
            sequences += [(answer.ids, prefix) for answer in lesson.answers]
        focus = [answer.focus for lesson in lessons for answer in lesson.answers]
        pack = Pack(sequences, self.engine.device, focus=focus)
        model = self.engine.model
        with (
            packing(model),
            adapted(model, self.adapter),
            capture(model, self.engine.hookpoint, stop=True, learn=torch.is_grad_enabled()) as hook,
        ):
            found, _ = hook.run(model, **pack.inputs())
        return found[0][torch.cat(pack.index)]

    def loss(self, lessons: Sequence[Lesson], options: CheckingOptions) -> tuple[Tensor, dict[str, float]]:
        """Of one step, and what it is made of."""
        device = self.engine.device
        logits = self.readings(self.rows(lessons))
        answers = [answer for lesson in lessons for answer in lesson.answers]
        starts = [0, *itertools.accumulate(len(a.ids) for a in answers)]
        ends = torch.cat([torch.from_numpy(a.ends) + s for a, s in zip(answers, starts, strict=False)]).to(device)
        counts = [len(a.ends) for a in answers]
        at_ends = logits[ends, 0]
        wanted = torch.cat([torch.from_numpy(a.sentences) for a in answers]).float().to(device)
        by_sentence = _known_loss(at_ends, wanted)
        by_token = _known_loss(
            logits[:, 1], torch.cat([torch.from_numpy(a.tokens) for a in answers]).float().to(device)
        )
        worst = torch.stack([part.max() for part in at_ends.split(counts)])
        open_ = torch.tensor([bool(torch.isnan(torch.from_numpy(a.sentences)).any()) for a in answers], device=device)
        total = by_sentence + options.tokens_weight * by_token
        if open_.any():
            share = float(open_.float().mean())
            total = total + share * nn.functional.binary_cross_entropy_with_logits(
                worst[open_], torch.ones_like(worst[open_])
            )
        pairs, at = [], 0
        for lesson in lessons:
            pairs += [(at + a, at + b) for a, b in lesson.pairs]
            at += len(lesson.answers)
        figures = {"sentences": by_sentence.item(), "tokens": by_token.item()}
        if pairs:
            good, bad = torch.tensor(pairs, device=device).T
            gap = worst[bad] - worst[good]
            margin = nn.functional.softplus(options.margin - gap).mean()
            total = total + options.margin_weight * margin
            figures["pairs"] = float((gap > 0).float().mean())
        return total, figures

    @torch.no_grad()
    def worst(self, lessons: Sequence[Lesson]) -> list[float]:
        """The adapter's own logit of each answer: its worst sentence end."""
        logits = self.readings(self.rows(lessons))[:, 0]
        found, at = [], 0
        for answer in (a for lesson in lessons for a in lesson.answers):
            found.append(float(logits[at + torch.from_numpy(answer.ends)].max()))
            at += len(answer.ids)
        return found

    # -- on disk ------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is trained, by name."""
        found = {f"readings.{name}": value.detach() for name, value in self.readings.state_dict().items()}
        for path, (a, b) in self.adapter.weights.items():
            found |= {f"{path}.A": a.detach(), f"{path}.B": b.detach()}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse of `tensors`."""
        mean, deviation = tensors["readings.mean"], tensors["readings.deviation"]
        self.readings = Readings(mean.clone(), deviation.clone()).to(self.engine.device)
        own = {k.removeprefix("readings."): v for k, v in tensors.items() if k.startswith("readings.")}
        self.readings.load_state_dict(own)
        with torch.no_grad():
            for path, (a, b) in self.adapter.weights.items():
                a.copy_(tensors[f"{path}.A"])
                b.copy_(tensors[f"{path}.B"])


def train_checking(
    engine: TransformersEngine,
    sources: Sources,
    folder: Path,
    options: CheckingOptions,
    *,
    start: Adapter | None = None,
    until: float | None = None,
    stop_after: int | None = None,
) -> Checking:
    """Train, or go on where `folder` stands.

    start: an adapter to begin with, where the folder holds none yet.
    until, stop_after: a moment (`time.time()`) and a step at which to stop early; the same call goes on from there.
    Raises InputError where the folder holds an adapter of another rank or focus.
    """
    if not any(weight > 0 and own for weight, own in sources.values()):
        raise InputError("no labelled answer to learn from", expected="rows whose groups belong to the training part")
    folder.mkdir(parents=True, exist_ok=True)
    state_path = folder / STATE
    done, units = 0, 0
    first = [lesson for unit in itertools.islice(mixed(sources, options.seed), 24) for lesson in unit]
    checking = Checking.new(engine, first, options, start)
    moments: dict[str, Tensor] = {}
    if (folder / PROGRESS).exists():  # written last
        progress = json.loads((folder / PROGRESS).read_text("utf-8"))
        for name, wanted in (("rank", options.rank), ("alpha", options.alpha), ("focus", options.focus)):
            if progress["options"].get(name, 0) == wanted:
                continue
            raise InputError(
                f"{folder} holds an adapter of {name} {progress['options'].get(name, 0)}, not {wanted}",
                expected=f"the {name} it was begun with",
                remedy="choose another folder, or delete it",
            )
        tensors = load_file(state_path)
        checking.load(tensors)
        done, units = progress["steps"], progress["units"]
        moments = {k.removeprefix("optimiser."): v for k, v in tensors.items() if k.startswith("optimiser.")}
    adapter_weights, readings = checking.adapter.parameters(), list(checking.readings.parameters())
    optimiser = torch.optim.AdamW(
        [dict(params=adapter_weights, top=options.rate), dict(params=readings, top=options.head_rate)],
        lr=options.rate,
        weight_decay=0.01,
        betas=(0.9, 0.98),
    )
    _restore(optimiser, moments, done)
    log = (folder / LOG).open("a", encoding="utf-8")
    with tqdm(total=options.steps, initial=done, unit="step", desc="adapter", disable=None) as bar, log:
        for batch, drawn in _batches(mixed(sources, options.seed, skip=units), options.answer_tokens):
            late = until is not None and time.time() > until
            if late or done >= min(options.steps, options.steps if stop_after is None else stop_after):
                break
            began = time.time()
            for group in optimiser.param_groups:
                group["lr"] = group["top"] * _schedule(done, options)
            loss, figures = checking.loss(batch, options)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*adapter_weights, *readings], 1.0)
            optimiser.step()
            done, units = done + 1, units + drawn
            answers = sum(len(lesson.answers) for lesson in batch)
            figures |= {"step": done, "loss": loss.item(), "answers": answers, "seconds": time.time() - began}
            log.write(json.dumps({k: round(v, 4) for k, v in figures.items()}) + "\n")
            log.flush()
            bar.update()
            if done % options.save_every == 0:
                _save(checking, optimiser, folder, done, units, options)
    _save(checking, optimiser, folder, done, units, options)
    return checking


def _layers(engine: TransformersEngine) -> list[nn.Module]:
    """The decoder layers up to the hookpoint. Raises InputError where there are none, or answers cannot be packed."""
    path = engine.hookpoint.split(".")
    at = next((i for i, part in enumerate(path) if part.isdigit()), None)
    if at is None:
        raise InputError(
            f"the hookpoint {engine.hookpoint!r}",
            expected="one within a decoder layer, such as model.layers.18",
            remedy="take a base detector with such a hookpoint",
        )
    if not isinstance(replaying(engine), PackedReplay):
        raise InputError(
            f"the attention of {engine.model_id}",
            expected="one in which every token sees all before it (no sliding windows), so that answers can be packed",
            remedy="choose another model; its own reading needs no adapter",
        )
    decoder = find_module(engine.model, ".".join(path[:at]))
    return list(decoder)[: int(path[at]) + 1]  # type: ignore[call-overload]


def _batches(units: Iterator[list[Lesson]], tokens: int) -> Iterator[tuple[list[Lesson], int]]:
    """Lessons of one step, and the units they came from."""
    while True:
        batch: list[Lesson] = []
        drawn = 0
        while sum(lesson.size for lesson in batch) < tokens:
            batch += next(units)
            drawn += 1
            if drawn > MOST_UNITS:
                raise InputError(
                    f"{drawn} draws that hold only {sum(lesson.size for lesson in batch)} answer tokens",
                    expected="answers whose prompts are short enough to train on",
                    remedy="cut long prompts into passages",
                )
        yield batch, drawn


def _known_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    known = ~torch.isnan(wanted)
    if not known.any():
        return logits.sum() * 0
    return nn.functional.binary_cross_entropy_with_logits(logits[known], wanted[known])


def _schedule(step: int, options: CheckingOptions) -> float:
    fall = (options.steps - step) / max(options.cool_down * options.steps, 1)
    return min(1.0, (step + 1) / options.warm_up, max(fall, 0.0))


def _save(
    checking: Checking, optimiser: torch.optim.Optimizer, folder: Path, done: int, units: int, options: CheckingOptions
) -> None:
    tensors = checking.tensors()
    for number, (_, state) in enumerate(sorted(optimiser.state_dict()["state"].items())):
        tensors |= {f"optimiser.{number}.{name}": value for name, value in state.items() if name != "step"}
    partial = folder / f"{STATE}.partial"
    save_file({k: v.contiguous() for k, v in tensors.items()}, partial)
    partial.replace(folder / STATE)
    progress: dict[str, Any] = {"steps": done, "units": units, "options": asdict(options)}
    partial = folder / f"{PROGRESS}.partial"
    partial.write_text(json.dumps(progress), encoding="utf-8")
    partial.replace(folder / PROGRESS)


def _restore(optimiser: torch.optim.Optimizer, moments: Mapping[str, Tensor], steps: int) -> None:
    if not moments:
        return
    whole = optimiser.state_dict()
    numbers = {int(name.split(".", 1)[0]) for name in moments}
    whole["state"] = {
        n: {
            "step": torch.tensor(float(steps)),
            "exp_avg": moments[f"{n}.exp_avg"],
            "exp_avg_sq": moments[f"{n}.exp_avg_sq"],
        }
        for n in numbers
    }
    optimiser.load_state_dict(whole)
