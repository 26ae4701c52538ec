"""A prompt longer than the model's context, read in windows of its passages that overlap.

The longest message is cut: its passages where they can be told from the rest (given apart, or by the rule of `pasted`),
else all but its first and last line. What stands before and after them (instructions, question) and every other message
is in each window, so that a window is the same prompt with fewer passages. Windows begin and end between passages, else
between paragraphs, else between sentences.

A token needs the support of one window only: of all windows' activations it gets those under which its risk, the sum of
its contributions, is lowest (`joined`). What was chosen is folded like the rows of one pass, so contributions add up to
the score as they always do. Claims that only several windows together support are held against the answer, and the
lowest of many risks is lower than one; `benchmarks/long_prompts.py` measures what comes of both.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch

from groundwire.errors import CaptureError, PromptTooLong
from groundwire.pasted import pasted
from groundwire.prompts import Rendered, rendered
from groundwire.scoring import Scorer
from groundwire.sentences import sentences
from groundwire.types import Example, Message, Passage, Readout

OVERLAP = 8  # a window repeats at least an eighth of the one before
LEAST = 8  # less room for passages than an eighth of the context is too little: the windows would be too many
FRAME = 4  # what stands before or after the passages is kept whole up to a quarter of the context
MINIMUM = 32  # tokens of passages, however small the context
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")

Prompts = tuple[Rendered, ...]


class PassageWindows:
    """Cuts prompts for a model with `context` tokens. Rows of one prompt are cut once."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        self._tokenizer, self._context = tokenizer, context
        self._known: dict[tuple[Any, ...], Prompts] = {}

    def cut(self, example: Example, response: int) -> Prompts:
        """Each window's prompt, in the order of the text; each leaves room for `response` tokens.

        That room is counted in whole eighths of the context: answers of similar length share their windows, and none
        depends on what is scored with it. Raises PromptTooLong where response, question and instructions leave the
        passages less than an eighth of the context.
        """
        step = max(1, self._context // LEAST)
        limit = self._context - -(-response // step) * step
        messages = tuple((message["role"], message["content"]) for message in example.messages)
        key = (messages, tuple(passage.text for passage in example.passages), limit)
        if key not in self._known:
            self._known[key] = self._cut(example, limit)
        return self._known[key]

    def _cut(self, example: Example, limit: int) -> Prompts:
        messages = list(example.messages)
        longest = max(range(len(messages)), key=lambda i: len(messages[i]["content"]))
        whole = messages[longest]["content"]
        material = Material.of(self._tokenizer, whole, example.passages, self._context // FRAME)

        def cut(start: int, end: int) -> Rendered:
            content = whole[: material.start] + whole[start:end].strip() + whole[material.end :]
            changed: Message = {"role": messages[longest]["role"], "content": content}
            return rendered(self._tokenizer, [*messages[:longest], changed, *messages[longest + 1 :]])

        room, least = limit - len(cut(0, 0)), max(MINIMUM, self._context // LEAST)
        while room >= least:
            prompts = tuple(cut(start, end) for start, end in material.windows(room))
            over = max(map(len, prompts)) - limit
            if over <= 0:
                return prompts
            room -= over  # tokens may part otherwise where texts meet
        raise PromptTooLong(
            f"response, question and instructions leave {max(room, 0)} tokens of a context of {self._context}",
            expected=f"at least {least} for the passages",
            remedy="shorten what stands around the passages, or score fewer messages at once",
        )


@dataclass(frozen=True)
class Material:
    """Code points `[start, end)` of a text that are cut into windows.

    tokens: where each token in them starts, and `end`. breaks: where to cut, ascending, the best kind of places first.
    """

    start: int
    end: int
    tokens: Sequence[int]
    breaks: Sequence[Sequence[int]]

    @classmethod
    def of(cls, tokenizer: Any, text: str, passages: Sequence[Passage], frame: int) -> Material:
        """The passages in `text`, from the first to the last, or nearly all of it where there are none.

        frame: most tokens before or after them that are no part of it.
        """
        encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        tokens = [start for start, _ in encoded["offset_mapping"]]
        start, end, firsts = _bounds(text, passages or pasted(text))
        if bisect_left(tokens, start) > frame:
            start = 0
        if len(tokens) - bisect_left(tokens, end) > frame:
            end = len(text)
        inside = tokens[bisect_left(tokens, start) : bisect_left(tokens, end)]
        paragraphs = [match.end() for match in _PARAGRAPH.finditer(text, start, end)]
        ends = [sentence.end for sentence in sentences(text, start, end)]
        return cls(start, end, [*inside, end], (firsts, paragraphs, ends))

    def windows(self, room: int) -> list[tuple[int, int]]:
        """Windows `[start, end)` of at most about `room` tokens, which together hold every character."""
        start, found = self.start, list[tuple[int, int]]()
        while (first := bisect_left(self.tokens, start)) + room < len(self.tokens) - 1:
            end = max(start + 1, self._between(first + room - room // 4, first + room))
            found.append((start, end))
            last = bisect_left(self.tokens, end)
            start = max(start + 1, self._between(last - room // 2, last - -(-room // OVERLAP)))
        return [*found, (start, self.end)]

    def _between(self, low: int, high: int) -> int:
        """The last of the best places from token `low` to token `high`."""
        for places in self.breaks:
            at = bisect_right(places, self.tokens[high]) - 1
            if at >= 0 and places[at] >= self.tokens[low]:
                return places[at]
        return self.tokens[high]


def _bounds(text: str, passages: Sequence[Passage]) -> tuple[int, int, list[int]]:
    """Where the passages start and end in `text`, and where each starts, a label before it in its line included."""
    firsts, end = list[int](), 0
    for body in (passage.text.strip() for passage in passages):
        at = text.find(body, end) if body else -1
        if at >= 0:
            firsts.append(text.rfind("\n", end, at) + 1 or at)
            end = at + len(body)
    if firsts:
        return firsts[0], end, firsts
    return *_middle(text), []


def _middle(text: str) -> tuple[int, int]:
    """All but the first and the last line; of two lines the longer; of one all."""
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    first, last = text.find("\n", start, end), text.rfind("\n", start, end)
    if first != last or 0 <= first < (start + end) / 2:
        start = first + 1
    if first != last or first >= (start + end) / 2:
        end = last
    body = text[start:end]
    return start + len(body) - len(body.lstrip()), start + len(body.rstrip())


def joined(readouts: Sequence[Readout], scorer: Scorer) -> Readout:
    """The readout of a response from those of its windows, which hold `Readout.features`.

    A row's risk is the log-odds it adds as the only row of a response, with pooling "max" too: there a latent is pooled
    over the rows that were chosen. Raises CaptureError where features are missing or differ in shape.
    """
    began, device = perf_counter(), scorer.encoder.weight.device
    kept = [readout.features.to(device) for readout in readouts if readout.features is not None]
    shapes = {tuple(features.shape) for features in kept}
    if len(kept) < len(readouts) or len(shapes) != 1:
        raise CaptureError(
            f"features of {len(kept)} of {len(readouts)} windows, of shapes {sorted(shapes)}",
            expected="those of every window, all of one shape",
            remedy="let the engine's replay keep features, with a row for each response token",
        )
    features = torch.stack(kept)
    lowest = torch.stack([scorer.shapes(rows).sum(1) for rows in kept]).argmin(0)
    chosen = features[lowest, torch.arange(len(lowest), device=device)]
    slots = torch.zeros(len(chosen), dtype=torch.long, device=device)
    readout = scorer.finish(scorer.fold(scorer.new_state(1, device), chosen, slots), 0)
    return replace(
        readout,
        finite=all(each.finite for each in readouts),
        features=chosen.to(readouts[0].features.device) if readouts[0].features is not None else None,
        forward_seconds=sum(each.forward_seconds for each in readouts),
        check_seconds=sum(each.check_seconds for each in readouts) + perf_counter() - began,
    )
