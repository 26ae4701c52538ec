"""Templates of documents: passages with slots, facts that can be said rightly in several ways and wrongly in several.

A template is an object in a JSON file:

    {"id": "parental-leave", "domain": "HR policy",
     "slots": {"company": "@company", "weeks": [12, 16, 20], "paid": {"from": 4, "to": 10, "step": 2},
               "unpaid": "=weeks - paid", "rose,fell": [["rose", "fell"], ["fell", "rose"]]},
     "passages": ["Staff of {company} get {weeks} weeks of parental leave. The first {paid} are on full pay."],
     "facts": [{"right": [["plain", "Parental leave lasts {weeks} weeks."]],
                "wrong": [["quantifier", "All {weeks} weeks of parental leave are paid in full."]],
                "swap": [["weeks", "paid"]]}],
     "questions": [["How long is parental leave?", [0]]]}

A slot is a list of values, a range, a named pool (`@person`), a sum of other slots (`=weeks - paid`) or, where its name
holds commas, a list of value tuples, one value for each name. `{price:,}` writes thousands with commas.
"""

from __future__ import annotations

import ast
import json
import operator
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundwire.errors import InputError
from groundwire.training.making.pools import POOLS

RIGHT = ("plain", "paraphrase", "convert", "sum", "list", "partial")
WRONG = (
    "number",
    "date",
    "unit",
    "name",
    "roles",
    "negation",
    "trend",
    "condition",
    "quantifier",
    "mixed",
    "overclaim",
    "invention",
    "order",
    "cause",
)
_SLOT = re.compile(r"\{([a-z_0-9]{1,40})(:,)?\}")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}

Value = str | int | float


@dataclass(frozen=True)
class Fact:
    """What a document says once: (kind, text) of right ways to say it and of wrong ones, and slots that may not be
    exchanged."""

    right: tuple[tuple[str, str], ...]
    wrong: tuple[tuple[str, str], ...]
    swap: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Template:
    """A document with slots. questions: what can be asked of it, with the facts that answer."""

    id: str
    domain: str
    slots: Mapping[str, Any]
    passages: tuple[str, ...]
    facts: tuple[Fact, ...]
    questions: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Template:
        """The template in a JSON object. Raises InputError, naming the template, on whatever cannot be drawn."""
        name = str(record.get("id"))
        missing = {"id", "domain", "slots", "passages", "facts", "questions"} ^ set(record)
        if missing:
            raise InputError(f"template {name}: fields {sorted(missing)}", expected="exactly the fields of a template")
        facts = []
        for number, fact in enumerate(record["facts"]):
            if unknown := set(fact) - {"right", "wrong", "swap"}:
                raise InputError(f"template {name}, fact {number}: {sorted(unknown)}", expected="right, wrong, swap")
            kinds = [(k, RIGHT) for k, _ in fact["right"]] + [(k, WRONG) for k, _ in fact.get("wrong", ())]
            for kind, known in kinds:
                if kind not in known:
                    raise InputError(f"template {name}, fact {number}: kind {kind!r}", expected=", ".join(known))
            facts.append(
                Fact(
                    tuple((k, t) for k, t in fact["right"]),
                    tuple((k, t) for k, t in fact.get("wrong", ())),
                    tuple((a, b) for a, b in fact.get("swap", ())),
                )
            )
        questions = tuple((text, tuple(of)) for text, of in record["questions"])
        if not facts or not record["passages"] or not questions:
            raise InputError(f"template {name}: no facts, passages or questions", expected="at least one of each")
        for text, of in questions:
            if not of or not all(0 <= i < len(facts) for i in of):
                raise InputError(
                    f"template {name}: question {text!r} asks for facts {of}", expected=f"0 to {len(facts) - 1}"
                )
        made = cls(name, record["domain"], record["slots"], tuple(record["passages"]), tuple(facts), questions)
        made._check()
        return made

    def draw(self, rng: random.Random, taken: Mapping[str, Value] | None = None) -> dict[str, Value]:
        """A value for each slot, those of `taken` given; slots that share a pool or a list differ."""
        values: dict[str, Value] = dict(taken or {})
        for name, given in self.slots.items():
            names = name.split(",")
            if all(n in values for n in names) or (isinstance(given, str) and given.startswith("=")):
                continue
            if len(names) > 1:
                values.update(zip(names, rng.choice(given), strict=True))
                continue
            choices = _choices(given)
            free = [c for c in choices if c not in values.values()] or choices
            values[name] = rng.choice(free)
        return self.derived(values)

    def derived(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """`values` with those slots that are sums of others worked out anew."""
        found = dict(values)
        for name, given in self.slots.items():
            if isinstance(given, str) and given.startswith("="):
                found[name] = calculate(given[1:], found)
        return found

    @property
    def drawn(self) -> list[tuple[str, ...]]:
        """The slots that are drawn, those drawn together together."""
        return [tuple(n.split(",")) for n, given in self.slots.items() if not str(given).startswith("=")]

    def _check(self) -> None:
        """Raise InputError where a text names a slot that is not there, or a slot cannot be drawn."""
        names = {n for key in self.slots for n in key.split(",")}
        texts = [*self.passages, *(q for q, _ in self.questions)]
        texts += [t for fact in self.facts for _, t in (*fact.right, *fact.wrong)]
        for text in texts:
            for brace in re.findall(r"\{[^{}]{0,60}\}", text):
                slot = _SLOT.fullmatch(brace)
                if slot is None or slot[1] not in names:
                    raise InputError(f"template {self.id}: {brace} in {text!r}", expected=f"one of {sorted(names)}")
        for pair in (p for fact in self.facts for p in fact.swap):
            if not set(pair) <= names:
                raise InputError(f"template {self.id}: swap of {pair}", expected=f"two of {sorted(names)}")
        for name, given in self.slots.items():
            if "," in name and not all(len(v) == name.count(",") + 1 for v in given):
                raise InputError(f"template {self.id}: slots {name}", expected="lists of one value for each name")
        self.draw(random.Random(0))


def fill(text: str, values: Mapping[str, Value]) -> str:
    """`text` with its slots filled; a sentence that begins with a slot begins with a capital."""

    def put(match: re.Match[str]) -> str:
        value = values[match[1]]
        if isinstance(value, str):
            return value
        value = int(value) if float(value).is_integer() else round(float(value), 2)
        return f"{value:,}" if match[2] else str(value)

    filled = _SLOT.sub(put, text)
    return filled[:1].upper() + filled[1:] if text.startswith("{") else filled


def slots_of(text: str) -> list[str]:
    """The names of the slots of `text`, in order."""
    return [match[1] for match in _SLOT.finditer(text)]


def calculate(sum_: str, values: Mapping[str, Value]) -> Value:
    """The value of a sum over slots: + - * / // and brackets. Raises InputError on anything else."""

    def value(node: ast.expr) -> Any:
        match node:
            case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.Constant(int() | float() as number):
                return number
            case ast.Name(name) if isinstance(values.get(name), int | float):
                return values[name]
        raise InputError(
            f"the sum {sum_!r}", expected="numbers and slots that hold numbers, with + - * / // and brackets"
        )

    return value(ast.parse(sum_.strip(), mode="eval").body)


def read_templates(folder: Path) -> Iterator[Template]:
    """The templates of all JSON files of `folder`, in order of their names."""
    for path in sorted(folder.glob("*.json")):
        for record in json.loads(path.read_text("utf-8")):
            yield Template.of(record)


def _choices(given: Any) -> list[Value]:
    if isinstance(given, str):
        if given[1:] not in POOLS:
            raise InputError(
                f"slot values {given!r}", expected=f"a list, a range, a sum or one of @{', @'.join(POOLS)}"
            )
        return list(POOLS[given[1:]])
    if isinstance(given, Mapping):
        step = given.get("step", 1)
        count = int((given["to"] - given["from"]) / step + 1e-9) + 1
        return [given["from"] + step * i for i in range(count)]
    return list(given)
