"""Cuts the input into windows: the rows that are planned together, and the pieces by which a run is continued.

Where a window ends depends on the input alone, so every run over the same rows cuts, plans and scores them alike.
Rows of equal messages share one object in a window, as do their passages: a prompt costs its memory once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from groundwire.batch.reader import ExampleRow, Row
from groundwire.types import Example

ROWS = 8192
CHARACTERS = 8 * 2**20  # distinct: equal prompts count once


@dataclass(frozen=True)
class Window:
    """Rows that follow each other. number: of the window. first: place of its first row in the input; both from 0.

    digest: of all that the output depends on: ids, prompts, passages, responses, and what is wrong with invalid rows.
    characters: of responses and distinct prompts.
    """

    number: int
    first: int
    rows: list[Row]
    digest: str
    characters: int

    @property
    def places(self) -> range:
        return range(self.first, self.first + len(self.rows))


def windows(rows: Iterable[Row], *, most: int = ROWS, characters: int = CHARACTERS) -> Iterator[Window]:
    """Windows of at most so many rows and, but for a window of one row, so many distinct characters."""
    number, first = 0, 0
    growing = _Growing()
    for row in rows:
        prompt = _prompt(row)
        if growing.rows and (len(growing.rows) >= most or growing.size + growing.cost(row, prompt) > characters):
            window, growing = growing.window(number, first), _Growing()
            number, first = number + 1, first + len(window.rows)
            yield window
            del window  # or it would be kept until the next one is whole
        growing.add(row, prompt)
    if growing.rows:
        yield growing.window(number, first)


Prompt = tuple[Any, ...]


def _prompt(row: Row) -> Prompt:
    """What two rows must have in common to share a prompt."""
    if not isinstance(row, ExampleRow):
        return ()
    example = row.example
    return (
        tuple((message["role"], message["content"]) for message in example.messages),
        tuple((passage.text, passage.id) for passage in example.passages),
    )


class _Growing:
    """A window that is not yet whole."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.size = 0
        self._digest = sha256()
        self._prompts: dict[Prompt, tuple[Example, bytes]] = {}  # of each: the first example, and a digest
        self._messages: dict[Prompt, Example] = {}

    def cost(self, row: Row, prompt: Prompt) -> int:
        """Characters by which the row would make the window larger."""
        if not isinstance(row, ExampleRow):
            return 0
        known = prompt in self._prompts or prompt[0] in self._messages
        return len(row.example.response) + (0 if known else sum(len(content) for _, content in prompt[0]))

    def add(self, row: Row, prompt: Prompt) -> None:
        self.size += self.cost(row, prompt)
        if not isinstance(row, ExampleRow):
            self._digest.update(json.dumps([row.id, row.reason, row.line, row.error.given]).encode())
            self.rows.append(row)
            return
        if prompt in self._prompts:
            like, digest = self._prompts[prompt]
            example = Example(row.example.id, like.messages, row.example.response, passages=like.passages)
            row = ExampleRow(row.line, row.id, example, row.about)
        else:
            if prompt[0] in self._messages:  # the same texts as passages of other names
                like, given = self._messages[prompt[0]], row.example
                example = Example(given.id, like.messages, given.response, passages=given.passages)
                row = ExampleRow(row.line, row.id, example, row.about)
            digest = sha256(json.dumps(prompt).encode()).digest()
            self._prompts[prompt] = row.example, digest
            self._messages.setdefault(prompt[0], row.example)
        name = json.dumps(row.id).encode()  # 7 and "7" differ
        response = row.example.response.encode()
        self._digest.update(b"%d %d %b" % (len(name), len(response), digest))
        self._digest.update(name)
        self._digest.update(response)
        self.rows.append(row)

    def window(self, number: int, first: int) -> Window:
        return Window(number, first, self.rows, self._digest.hexdigest(), self.size)
