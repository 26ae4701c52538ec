"""Plans a window's valid rows into units: rows of one prompt together, so that it is encoded once.

The plan is made on the whole window, whatever of it is scored already, so a row has the same company in every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from groundwire.batch.reader import ExampleRow
from groundwire.batch.unit import Unit
from groundwire.batch.windows import Window
from groundwire.types import Example

CHARACTERS = 2**15  # distinct: what a killed run can lose is seconds of work, also on a small machine
PROMPT_ROWS = 256  # rows of one prompt that go together: what a killed run can lose stays small
ROWS = 1024

Piece = tuple[int, list[tuple[int, Example]]]  # characters; places and examples of one prompt


def units(
    window: Window,
    first: int = 0,
    *,
    characters: int = CHARACTERS,
    prompt_rows: int = PROMPT_ROWS,
    rows: int = ROWS,
) -> Iterator[Unit]:
    """Units of a window, numbered from `first`, in the order in which their prompts first appear."""
    taken: list[tuple[int, Example]] = []
    size = 0
    for cost, piece in _pieces(window, characters, prompt_rows):
        if taken and (size + cost > characters or len(taken) + len(piece) > rows):
            yield _unit(first, taken)
            first, taken, size = first + 1, [], 0
        taken += piece
        size += cost
    if taken:
        yield _unit(first, taken)


def characters_of(examples: Iterable[Example]) -> int:
    """Characters of examples, prompts that are one object once."""
    prompts, total = set(), 0
    for example in examples:
        total += len(example.response)
        if id(example.messages) not in prompts:
            prompts.add(id(example.messages))
            total += sum(len(message["content"]) for message in example.messages)
    return total


def _pieces(window: Window, characters: int, prompt_rows: int) -> Iterator[Piece]:
    """Rows of one prompt, cut where they are too many or too long. Equal prompts of a window are one object."""
    groups: dict[int, list[tuple[int, Example]]] = {}
    for place, row in zip(window.places, window.rows, strict=True):
        if isinstance(row, ExampleRow):
            groups.setdefault(id(row.example.messages), []).append((place, row.example))
    for group in groups.values():
        prompt = sum(len(message["content"]) for message in group[0][1].messages)
        size, piece = 0, list[tuple[int, Example]]()
        for place, example in group:
            # However long the prompt is: where it is cut, it is encoded again.
            if piece and (len(piece) >= prompt_rows or size + len(example.response) > characters):
                yield prompt + size, piece
                size, piece = 0, []
            piece.append((place, example))
            size += len(example.response)
        yield prompt + size, piece


def _unit(number: int, rows: list[tuple[int, Example]]) -> Unit:
    places, examples = zip(*rows, strict=True)
    return Unit(number, places, examples)
