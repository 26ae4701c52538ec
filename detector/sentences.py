"""Sentences of a text with their offsets, and its words reduced so that the forms of one word meet. No model, no data.

Works on any script: where sentence ends cannot be seen, pieces of at most 60 words stand in for sentences.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from groundwire.types import Token

MAX_WORDS, MAX_CHARACTERS = 60, 480  # a longer sentence is cut
PIECE = 40  # words of what it is cut into: what a reader takes in at a glance

# Scripts without spaces (Thai to Khmer, kana, Han) give one word per character; a run of letters longer than any word
# is cut, so that no piece is longer than its bound.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(
    rf"\d{{1,40}}(?:[.,]\d{{1,12}}){{0,5}}|(?=[^\W\d_])[{_UNSPACED}]|[^\W\d_{_UNSPACED}]{{1,40}}(?:['’][^\W\d_]{{1,2}}\b)?"
)
# Every alternative starts at one character and runs possessively, so that no input takes more than linear time.
_END = re.compile(
    r"\n|[。！？][」』”）]{0,2}|(?<![.!?…])[.!?…]++[\"'”’)\]]{0,3}(?=\s)"
    r"|(?<=[a-z]{2})[.!?](?=[A-Z][a-z])"  # retrieved text often lacks the space: "of them.The next"
)
_ABBREVIATION = re.compile(
    r"\b(?:[a-z]|mrs?|ms|drs?|prof|rev|hon|gen|col|sgt|capt|lt|sen|rep|gov|st|vs|inc|ltd|co|corp|jr|sr|approx"
    r"|jan|feb|aug|sept?|oct|nov|dec)$",
    re.IGNORECASE,
)
# What prompts put before a passage.
_LABEL = re.compile(r"(?i:passage|document|context|source|text)(?:\s?\d{1,4}\s?[:.]|\s?:)\s*")
_SPELT = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBERS = {word: str(number) for number, word in enumerate(_SPELT, 2)}


class Sentence(NamedTuple):
    """Code points `[start, end)` of a text, and the words there as `words` gives them."""

    start: int
    end: int
    words: list[str]


def sentences(text: str, start: int = 0, end: int | None = None) -> Iterator[Sentence]:
    """The sentences of `text[start:end]`, in order and apart, without white space at either end.

    A sentence of more than 60 words or 480 code points is cut between words, evenly, into pieces of at most 40 words.
    What holds no word is left out, and so is a label such as "Passage 2:" before a passage. Offsets count from the
    beginning of `text`. Linear in the text.
    """
    end = len(text) if end is None else end
    for mark in _END.finditer(text, start, end):
        if _closes(text, start, mark):
            yield from _pieces(text, start, mark.end())
            start = mark.end()
    yield from _pieces(text, start, end)


def sentence_ends(text: str, tokens: Sequence[Token]) -> list[int]:
    """The number of the last token of each sentence of `text`, ascending: where a sentence can be judged whole.

    tokens: those of `text`, in order. A text without a word is one sentence; one without tokens has none.
    """
    ends, at = list[int](), 0
    for sentence in sentences(text):
        while at + 1 < len(tokens) and tokens[at + 1].start < sentence.end:
            at += 1
        if tokens and (not ends or at > ends[-1]):
            ends.append(at)
    return ends or ([len(tokens) - 1] if tokens else [])


def words(text: str, start: int = 0, end: int | None = None) -> list[str]:
    """The words of `text[start:end]`, reduced: lower case, no accents, no inflection ("opened" and "opening" meet).

    Numbers lose their thousands' commas; small ones spelt out become digits.
    """
    return list(map(_reduced, _WORD.findall(text, start, len(text) if end is None else end)))


def spelt(text: str, start: int, end: int) -> Iterator[tuple[int, int, str]]:
    """The words of `text[start:end]` with their code points `[start, end)` of `text`, reduced as by `words`."""
    for found in _WORD.finditer(text, start, end):
        yield found.start(), found.end(), _reduced(found[0])


def _closes(text: str, start: int, mark: re.Match[str]) -> bool:
    """Whether a mark that may end the sentence begun at `start` does."""
    if mark[0][0] in "\n。！？" or not text[mark.end() : mark.end() + 1].isspace():
        return True  # the last: a missing space
    if mark[0] != ".":
        return not text[mark.end() : mark.end() + 8].lstrip()[:1].islower()
    before = text[max(start, mark.start() - 12) : mark.start()]
    item = mark.start() - start < 12 and before.strip().isdecimal()  # "1. Rinse it"
    return not item and _ABBREVIATION.search(before) is None


def _pieces(text: str, start: int, end: int) -> Iterator[Sentence]:
    """The sentence between two marks, or what it is cut into."""
    start += len(text[start:end]) - len(text[start:end].lstrip())
    if label := _LABEL.match(text, start, end):
        start = label.end()
    line = text[start:end].rstrip()
    end = start + len(line)
    found = words(line)
    if not found:
        return
    if len(found) <= MAX_WORDS and len(line) <= MAX_CHARACTERS:
        yield Sentence(start, end, found)
        return
    bounds = [word.span() for word in _WORD.finditer(text, start, end)]
    size = -(-len(found) // -(-len(found) // PIECE))
    first = 0
    for i in range(1, len(bounds) + 1):
        if i == len(bounds) or i - first == size or bounds[i][1] - bounds[first][0] > MAX_CHARACTERS:
            yield Sentence(bounds[first][0], bounds[i - 1][1], found[first:i])
            first = i


@lru_cache(maxsize=1 << 15)
def _reduced(word: str) -> str:
    """One word without case, accents and the commoner English endings: lighter than Porter's stemmer, and made for
    comparing, not for reading."""
    word = word.casefold()
    if not word.isascii():
        word = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c)) or word
    word = re.split("['’]", word)[0].replace(",", "")
    if word in _NUMBERS:
        return _NUMBERS[word]
    if len(word) <= 3 or word[0].isdigit():
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for suffix in ("ing", "ed", "ly"):
        if word.endswith(suffix) and len(word) >= len(suffix) + 3:
            word = word[: -len(suffix)]
            if word[-1] == word[-2] and word[-1] not in "sl":  # planned, plan
                word = word[:-1]
            break
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] + "i" if len(word) > 2 and word.endswith("y") else word
