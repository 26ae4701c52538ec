"""Requests that can be told apart, and whether an answer and its verdict belong to the request that got them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

NUMBER = re.compile(r"K\d{7}")

Row = dict[str, Any]


@dataclass
class Tally:
    """What clients met. issued: the numbers given out so far. problems: what must not be, each with an example."""

    statuses: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    numbered: int = 0  # answers that hold their own number
    issued: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def number(self) -> str:
        name = f"K{len(self.issued) * 7919 % 10_000_000:07d}"  # neighbours differ in most digits
        self.issued.add(name)
        return name

    def answer(self, number: str, text: str, verdict: Mapping[str, Any]) -> None:
        """Count an answer with its verdict, and what is wrong with it."""
        self.problems += unpaired(number, text, verdict, self.issued)
        self.checked[verdict["status"] if verdict["status"] == "checked" else verdict["reason"]] += 1
        self.numbered += number in text


def passages(number: str) -> list[Row]:
    text = f"The bridge {number} opened in 1931 and is 642 metres long."
    return [{"id": number, "text": text}, {"id": f"{number}-b", "text": f"Bridge {number} has two lanes."}]


def unpaired(number: str, text: str, verdict: Mapping[str, Any], issued: set[str]) -> Iterator[str]:
    """What says that `verdict` is not that of the answer `text` to the request `number`."""
    strangers = set(NUMBER.findall(text)) & issued - {number}
    if strangers:
        yield f"{number}: the answer holds {strangers.pop()}"
    if verdict["status"] != "checked":
        return
    tokens = verdict["tokens"]
    if not tokens or tokens[-1]["end"] != len(text) or any(text[t["start"] : t["end"]] != t["token"] for t in tokens):
        yield f"{number}: the scored tokens are not those of the answer"
    own = {passage["id"]: passage["text"] for passage in passages(number)}
    for span in verdict["spans"]:
        if text[span["start"] : span["end"]] != span["text"]:
            yield f"{number}: a span is not of the answer"
        evidence = span["evidence"]
        if evidence and evidence["text"] not in own.get(evidence["passage_id"], ""):
            yield f"{number}: evidence from passage {evidence['passage_id']}"
