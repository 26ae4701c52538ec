"""How the Hugging Face engine reads responses that exist: each distinct beginning once, no padding, no layer too many.

Prompts are sorted, so that neighbours share as much of their beginning as any; what they share with the last prompt
read is not read again. Then the responses follow, packed, behind the keys and values of their prompts; what neighbours
among them share, and attend to alike, stands in a pass once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from groundwire.capture import adapted, capture, run_until_it_ends
from groundwire.engines.base import Asked
from groundwire.engines.packed import Pack, Prefix, depth, packing, shared
from groundwire.engines.padded import PaddedReplay, Replaying, Rows
from groundwire.focus import Focus, alike

if TYPE_CHECKING:
    from groundwire.engines.transformers import TransformersEngine

LOG = logging.getLogger(__name__)
# Tokens of one pass. On a CPU what it computes should stay in the caches; a GPU wants many.
CPU_TOKENS, GPU_TOKENS = 512, 8192
HELD = 32  # times as many: tokens whose keys and values are held at once, for all prompts of a pass
SHARED = 16  # tokens: a beginning shared by fewer is not worth a pass of its own


class PackedReplay:
    """Reads by packed passes."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine
        self._model = engine.model
        self._depth = depth(engine.hookpoint, engine.model)
        self._tokens = CPU_TOKENS if engine.device.type == "cpu" else GPU_TOKENS

    def rows(self, asked: Sequence[Asked]) -> Iterator[Rows]:
        """See `Replaying.rows`."""
        first, responses = 0, dict[tuple[int, ...], list[Answer]]()
        known: list[tuple[Answer, Prefix | None]] = []
        for each in asked:
            answers = [(first + i, tuple(ids)) for i, ids in enumerate(each.responses) if ids]
            found = [Answer(number, ids, each.focus.get(ids)) for number, ids in answers]
            if each.known is not None:
                known += [(answer, each.known) for answer in found]
            elif found:
                responses.setdefault(tuple(each.prompt), []).extend(found)
            first += len(each.responses)
        for batch in _batches(known, self._tokens):
            yield self._respond(batch)
        base: Prefix | None = None
        for prompts in self._together(sorted(responses)):
            prefixes = self._read(prompts, base)
            todo = [
                (answer, prefix)
                for prompt, prefix in zip(prompts, prefixes, strict=True)
                for answer in sorted(responses[prompt], key=lambda answer: answer.ids)
            ]
            for batch in _batches(todo, self._tokens):
                yield self._respond(batch)
            base = prefixes[-1]

    def _together(self, prompts: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
        """Sorted prompts by the pass in which they are read; the last one of a pass is at hand in the next."""
        base: tuple[int, ...] = ()
        batch: list[tuple[int, ...]] = []
        size, held = 0, 0
        for prompt in prompts:
            rest = len(prompt) - shared(base, prompt)
            gain = shared(batch[-1], prompt) - shared(base, prompt) if batch else 0
            full = size + rest > self._tokens or held + len(prompt) > HELD * self._tokens
            if batch and (full or gain >= SHARED):
                yield batch
                base, batch, size, held = batch[-1], [], 0, 0
                rest = len(prompt) - shared(base, prompt)
            batch.append(prompt)
            size, held = size + rest, held + len(prompt)
        if batch:
            yield batch

    def _read(self, prompts: Sequence[tuple[int, ...]], base: Prefix | None) -> list[Prefix | None]:
        """The prompts as prefixes; what they share with `base` is taken from there."""
        known = {prompt: shared(base.ids, prompt) if base else 0 for prompt in prompts}
        # A prompt that is the beginning of the base needs no pass.
        new = [prompt for prompt in prompts if known[prompt] < len(prompt)]
        lengths = {known[prompt] for prompt in new}
        beginnings = {length: base.first(length) if base else None for length in lengths}  # one object each, for `Pack`
        new.sort(key=lambda prompt: known[prompt])
        if new:
            rest = [(p[known[p] :], beginnings[known[p]]) for p in new]
            pack = Pack(rest, self._engine.device, keep=True, depth=self._depth)
            with self._engine.reader.lock, packing(self._model):
                run_until_it_ends(self._model, **pack.inputs())
            self._engine.tokens_read += pack.size
            read = dict(zip(new, pack.kept, strict=True))
        else:
            read = {}
        return [read[p] if p in read else base.first(len(p)) if base else None for p in prompts]

    def _respond(self, batch: Sequence[tuple[Answer, Prefix | None]]) -> Rows:
        focus = [answer.focus for answer, _ in batch]
        pack = Pack([(answer.ids, prefix) for answer, prefix in batch], self._engine.device, focus=focus)
        with (
            self._engine.reader.lock,
            packing(self._model),
            adapted(self._model, self._engine.adapter),
            capture(self._model, self._engine.hookpoint, stop=True) as hook,
        ):
            rows, _ = hook.run(self._model, **pack.inputs())
        self._engine.tokens_read += pack.size
        lengths = torch.tensor([len(answer.ids) for answer, _ in batch])
        slots = torch.tensor([answer.number for answer, _ in batch]).repeat_interleave(lengths)
        return rows[0][torch.cat(pack.index)], slots.to(rows.device)


class Answer(NamedTuple):
    """A response by its number among all, its token ids, and what of the prompt they attend to: None for all."""

    number: int
    ids: tuple[int, ...]
    focus: Focus | None


def _batches(todo: Sequence[tuple[Answer, Prefix | None]], tokens: int) -> Iterator[list[tuple[Answer, Prefix | None]]]:
    """Responses by pass, each with its prompt."""
    batch: list[tuple[Answer, Prefix | None]] = []
    size = 0
    for answer, prefix in todo:
        known = shared(batch[-1][0].ids, answer.ids) if batch and batch[-1][1] is prefix else 0
        if known:
            known = alike(batch[-1][0].focus, answer.focus, known)
        if batch and size + len(answer.ids) - known > tokens:
            yield batch
            batch, size, known = [], 0, 0
        batch.append((answer, prefix))
        size += len(answer.ids) - known
    if batch:
        yield batch


def replaying(engine: TransformersEngine) -> Replaying:
    """Packed passes where they give what the library's own attention gives, on a few tokens; else padded ones.

    Masks, biases or caches of other kinds make them differ, or fail.
    """
    packed, padded = PackedReplay(engine), PaddedReplay(engine)
    before = engine.tokens_read
    try:
        return packed if _plain(engine) and _agree(packed, padded, exact=engine.dtype == "float32") else padded
    finally:
        engine.tokens_read = before


def _plain(engine: TransformersEngine) -> bool:
    """Whether every token sees all before it, turned by its own position alone: what a few tokens cannot show."""
    config = engine.model.config.get_text_config()
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if set(kinds or ["full_attention"]) != {"full_attention"} or (not kinds and window and window < engine.context):
        return False
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    found = [each for each in (rope, *rope.values()) if isinstance(each, Mapping)]
    # These turn all tokens of a pass by its longest position.
    return not {"longrope", "dynamic"} & {str(each.get("rope_type", each.get("type"))) for each in found}


def _agree(packed: Replaying, padded: Replaying, *, exact: bool) -> bool:
    asked = [Asked(range(1, 25), [range(3, 8), range(5, 14)]), Asked((*range(1, 21), 2, 3), [range(9, 20)])]
    expected = _by_response(padded.rows(asked))
    tolerance = 1e-3 if exact else 0.1  # where numbers are rounded on the way, small differences grow
    try:
        found = _by_response(packed.rows(asked))
        gaps = {i: (found[i] - rows).float().norm(dim=-1) / rows.float().norm(dim=-1) for i, rows in expected.items()}
    except Exception as error:  # a model may refuse in any way; the library's own way then serves
        LOG.info("packed passes fail with this model (%s): padded ones are used", error)
        return False
    return all(bool((gap <= tolerance).all()) for gap in gaps.values())  # false for NaN


def _by_response(passes: Iterator[Rows]) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for rows, slots in passes:
        found |= {int(slot): rows[slots == slot] for slot in slots.unique()}
    return found
