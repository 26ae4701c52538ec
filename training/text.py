"""Unlabelled text for dictionaries: documents become token sequences, part of them set as passages in RAG prompts.

A dictionary trained on plain articles alone has seen no chat template, no "Passage 2:", no answer after passages.
So a share of the documents is dressed up: some paragraphs become passages (or the document to summarise), another part
of the same article becomes the answer. Documents are split into training and held-out by a hash of their text.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundwire.errors import InputError
from groundwire.prompts import grounded_messages, render
from groundwire.types import Passage

HELD_OUT_SHARE = 8  # one document in eight is never trained on
MIN_CHARACTERS = 400
ANSWER_CHARACTERS = (60, 700)
PASSAGE_CHARACTERS = 2400

_STRICT_QUESTION = (
    "Briefly answer the following question:\n{question}\n"
    "Bear in mind that your response should be strictly based on the following passages:\n{passages}\noutput:"
)
_SUMMARY = "Summarize the following document.\n\n{document}\n\nSummary:"


@dataclass(frozen=True)
class Document:
    title: str
    text: str

    @property
    def held_out(self) -> bool:
        return hashlib.sha256(self.text[:2000].encode()).digest()[0] % HELD_OUT_SHARE == 0


def read_documents(path: str | Path) -> Iterator[Document]:
    """Documents of a JSONL file (`.gz` or plain) with a `text` and, if there is one, a `title`.

    Raises InputError on a missing file, unreadable JSON (with the line's number) or a file without any text.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}", expected="JSONL with a `text` field, plain or .gz")
    found = False
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            document = _document(line, f"{path}, line {number}") if line.strip() else None
            if document is not None and len(document.text) >= MIN_CHARACTERS:
                found = True
                yield document
    if not found:
        raise InputError(f"{path} holds no text of {MIN_CHARACTERS} characters or more")


def _document(line: str, where: str) -> Document:
    expected = '{"text": "...", "title": "..."}'
    try:
        row = json.loads(line)
        text, title = row["text"], row.get("title") or ""
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: {error!r:.120}", expected=expected) from error
    if not isinstance(text, str):
        raise InputError(f'{where}: "text" is {text!r:.60}', expected=expected)
    return Document(str(title), text)


def sequences(
    path: str | Path, tokenizer: Any, *, held_out: bool, context: int = 512, rag_share: float = 0.5, seed: int = 0
) -> Iterator[list[int]]:
    """Token sequences of at most `context` (plain) or `2 * context` (RAG prompt and answer) tokens, in file order.

    rag_share: share of documents set as RAG prompts. The same arguments give the same sequences.
    """
    for number, document in enumerate(read_documents(path)):
        if document.held_out is not held_out:
            continue
        rng = random.Random(f"{seed}:{number}")
        if rng.random() < rag_share:
            ids = _rag_sequence(document, tokenizer, rng)
            if ids:
                yield ids[: 2 * context]
                continue
        ids = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        # At most four windows per document, so that long articles do not crowd out the rest.
        for start in range(0, min(len(ids), 4 * context), context):
            window = ids[start : start + context]
            if len(window) >= 32:
                yield window


def _rag_sequence(document: Document, tokenizer: Any, rng: random.Random) -> list[int] | None:
    paragraphs = [p.strip() for p in re.split(r"\n+", document.text) if len(p.strip()) > 80 and "==" not in p]
    if len(paragraphs) < 2:
        return None
    kind = rng.random()
    if kind < 1 / 3:  # the lead of an article is its summary
        prompt, answer = _SUMMARY.format(document="\n".join(paragraphs[1:])[:PASSAGE_CHARACTERS]), paragraphs[0]
        ids = render(tokenizer, [{"role": "user", "content": prompt}])
    else:
        count = rng.randint(1, min(3, len(paragraphs) - 1))
        start = rng.randint(0, len(paragraphs) - count)
        passages = [p[: PASSAGE_CHARACTERS // count] for p in paragraphs[start : start + count]]
        # The answer repeats a passage or comes from elsewhere in the article: text that stays, text that leaves.
        rest = paragraphs[:start] + paragraphs[start + count :]
        answer = rng.choice(passages if rng.random() < 0.5 or not rest else rest)
        question = rng.choice(
            [f"What is {document.title}?", f"Tell me about {document.title}.", f"what is known about {document.title}"]
        )
        if kind < 2 / 3:
            numbered = "\n\n".join(f"passage {i}:{p}" for i, p in enumerate(passages, 1))
            prompt = _STRICT_QUESTION.format(question=question, passages=numbered)
            ids = render(tokenizer, [{"role": "user", "content": prompt}])
        else:
            ids = render(tokenizer, grounded_messages(question, [Passage(p) for p in passages]))
    answer = _whole_sentences(answer, rng.randint(*ANSWER_CHARACTERS))
    return ids + tokenizer(answer, add_special_tokens=False)["input_ids"]


def _whole_sentences(text: str, limit: int) -> str:
    """`text` cut after the last sentence that ends before `limit` characters; cut hard where none does."""
    if len(text) <= limit:
        return text
    ends = [m.end() for m in re.finditer(r"[.!?](?=\s)", text[:limit])]
    return text[: ends[-1]] if ends else text[:limit]
