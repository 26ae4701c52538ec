"""Which part of a text is pasted material, and which part asks about it. A rule on wording: no model.

A passage is found where the text *sets it off* and the rest *asks about it*. It is set off by, in this order:

1. tags: `<context>`, `<document id="2">`, `<passage>` and the like, closed; of nested ones the innermost;
2. labels with numbers: `Passage 1:`, `Document [2](Title: ...)`, `[Doc 3]`;
3. lines of dashes or the like around it (LlamaIndex), triple quotes, or a fence that names no programming language;
4. a heading: `Context:`, `Retrieved documents:`, `## Sources`, and the like, until the question's label or the end;
5. an announcement: "use the following pieces of context ...", "summarize the following document", and a new line;
6. length: 250 characters of prose with a question about them (not for an opinion), or a request for a summary, in a
   line before or after.

The rest asks where it says to answer from the passages ("using only the context"). Else it must hold a question, or its
label, or the material end in one; and the material must not be code, about the user, or tell the model what to be, nor
the request be for code, a translation, a rewriting or a text of one's own: answers to those claim nothing about a text.
English wordings only. The rule is built to miss rather than to find what nobody meant: whoever names the passages in
the request does not depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice, pairwise
from typing import NamedTuple

from groundwire.asking import (
    ASK_LABEL,
    END_LABEL,
    MARK,
    NOUN,
    elsewhere,
    grounded,
    opinion,
    question,
    refers,
    sentence_ends,
    spoken,
    summary,
)
from groundwire.types import Passage

EXPLICIT = 12  # characters of a passage that is called one
QUOTED = 60  # of one that is only set between lines, quotes or fences
PASTED = 250  # of one that is only long
ANNOUNCEMENTS = 8  # at most as many are looked at
LIMIT = 500_000  # characters of a text that are looked at, in at most half a second
ASKING = 400  # most characters of the line that asks about a long text

_TAG = re.compile(
    r"<(/?)((?:(?:retrieved|source|reference|search|document|page)[_-]?)?(?:contexts?|documents?|docs?|passages?|excerpts?"
    r"|snippets?|chunks?|articles?|sources?|texts?|contents?|references?|results?|knowledge))\b([^<>]{0,300})>",
    re.IGNORECASE,
)
_TAG_ID = re.compile(r"\b(?:id|index)\s*=\s*[\"']?([^\"'\s>]{1,100})")
_NUMBERED = re.compile(
    rf"{MARK}\[?(?:passage|document|doc|source|context|excerpt|snippet|chunk|article|paragraph|reference|result)s?"
    r"[ \t]*\[?#?[ \t]*(\d{1,3})\]?[ \t]*(?:\([^()\n]{0,200}\))?\]?\*{0,2}[ \t]*(?:[:.\-–—]|$)",
    re.IGNORECASE | re.MULTILINE,
)
_BRACKETED = re.compile(r"^[ \t]*\[(\d{1,3})\][ \t:]", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*([-=*_~#])\1{2,}[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[ \t]*$", re.MULTILINE)
_PROSE_FENCES = frozenset(["", "text", "txt", "md", "markdown", "plaintext", "context", "document"])
_TITLE = (
    r"(?:contexts?|passages?|documents?|docs?|sources?|excerpts?|snippets?|chunks?|paragraphs?|articles?|texts?|contents?"
    r"|references?|evidence|search results|transcripts?|reports?|abstract|papers?|information|structured data"
    r"|knowledge base)(?: (?:section|information|data|documents?|passages?|text))?"
)
_HEADING = re.compile(
    rf"{MARK}(?:(?!question|query|answer)[A-Za-z']+ ){{0,8}}?{_TITLE}(?:\*{{0,2}}[ \t]*:\*{{0,2}}| is below\.?)"
    rf"|^(?:#{{1,6}} |\*\*)(?:[A-Za-z']+ ){{0,3}}{_TITLE}(?:\*\*)?[ \t]*$|^{_TITLE}[ \t]*$"
    rf"|^[ \t]*(?:\[|[=#*-]{{2,8}} ?)(?:(?:begin|start|start of|the|retrieved) ){{0,2}}{_TITLE}:?(?:\]| ?[=#*-]{{2,8}})"
    r"[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_ANNOUNCED = re.compile(
    rf"\b(?:following|below|these)\b[ \t](?:[\w'-]+[ \t]){{0,4}}?{NOUN}\b|\b(?:using|in) (?:this|the) {NOUN}[ \t]*:"
    rf"|\bsummari[sz]e\b[ \t](?:[\w'-]+[ \t]){{0,3}}?(?:{NOUN}|this|following|below)\b|\bsummari[sz]e(?=:)"
    rf"|\b{NOUN} (?:(?:given|provided|listed) )?below\b|\bread (?:the|this|these) (?:[\w'-]+[ \t]){{0,3}}?{NOUN}\b",
    re.IGNORECASE,
)
_BREAK = re.compile(r"\n[ \t]*\n|\n[ \t]*([-=*_~#])\1{2,}[ \t]*(?=\n)")
_CODE_LINE = re.compile(
    r"^[ \t]*(?:def |class |import |from \w+ import|#include|public |private |const |let |var |function\b|return\b"
    r"|SELECT |Traceback|File \"|at [\w.$]+\(|\$ |</?[a-z]+[^<>\n]{0,80}>|[{}\[\]();]+$|[\w.]+[ \t]*=[ \t]*\S+$)"
    r"|[;{}][ \t]*$",
    re.MULTILINE,
)
_BULLET = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]", re.MULTILINE)


class Part(NamedTuple):
    """Code points `[start, end)` of a text that hold a passage, and the number or id the text gives it."""

    start: int
    end: int
    id: str | None = None


def pasted(text: str, asking: str = "") -> tuple[Passage, ...]:
    """The passages in a user's text, each a substring of it; () where the rule above finds none.

    The first form that sets anything off decides, also where it sets off nothing: an empty `Context:` says that nothing
    was retrieved. asking: what asks about the passages elsewhere, in another message.
    """
    text = text[:LIMIT]
    for form, least in FORMS:
        parts = form(text)
        held = _held(text, parts)
        if parts and (held >= least or not held):
            return _passages(text, parts) if held and _asked(text, parts, asking) else ()
    return _long(text)


def announced(text: str, asking: str) -> tuple[Passage, ...]:
    """The passages in an instruction to the model (a system message) about which the user's text asks.

    Quotes and mere length count for nothing here: instructions are long and quote what not to say.
    """
    text = text[:LIMIT]
    for form in (_tagged, _numbered, _ruled, _headed, _introduced):
        parts = form(text)
        named = form in (_tagged, _numbered) or grounded(_rest(text, parts))  # "# Context" may tell of the job
        if _held(text, parts) >= EXPLICIT and named:
            return _passages(text, parts) if _asked(text, parts, asking) else ()
    return ()


def _held(text: str, parts: list[Part]) -> int:
    return sum(len(text[part.start : part.end].strip()) for part in parts)


def _asked(text: str, parts: list[Part], asking: str) -> bool:
    """Whether the rest of the text, or `asking`, asks about `parts`; never where they are the question itself."""
    rest, body = _rest(text, parts), "\n".join(text[part.start : part.end] for part in parts)
    if _is_question(body) and sentence_ends(body) == 1:
        return False
    if grounded(rest):
        return True
    asks = question(request := f"{rest}\n{asking}") or _is_question(body)
    return asks and not elsewhere(request) and not spoken(body) and not _code(body)


def _rest(text: str, parts: list[Part]) -> str:
    kept, at = [], 0
    for part in parts:
        kept.append(text[at : part.start])
        at = part.end
    return "\n".join([*kept, text[at:]])


def _passages(text: str, parts: list[Part]) -> tuple[Passage, ...]:
    """Parts as passages, and a part that numbers its paragraphs `[1]`, `[2]` as one for each."""
    found = []
    for part in parts:
        marks = list(_BRACKETED.finditer(text, part.start, part.end)) if part.id is None else []
        if len(marks) > 1:
            ends = [mark.start() for mark in marks[1:]] + [part.end]
            found += [Part(mark.end(), end, mark[1]) for mark, end in zip(marks, ends, strict=True)]
        else:
            found.append(part)
    stripped = ((text[part.start : part.end].strip(), part.id) for part in found)
    return tuple(Passage(body, own) for body, own in stripped if body)


def _tagged(text: str) -> list[Part]:
    """Innermost closed tags. One pass with the tag that was opened last, so unclosed ones cost nothing."""
    parts: list[Part] = []
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            opened = tag
        elif opened is not None and opened[2].lower() == tag[2].lower():
            own = _TAG_ID.search(opened[3])
            parts.append(Part(opened.end(), tag.start(), own[1] if own else None))
            opened = None
    return parts


def _numbered(text: str) -> list[Part]:
    marks = list(_NUMBERED.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + ([_end(text, marks[-1].end())] if marks else [])
    return [Part(mark.end(), max(mark.end(), end), mark[1]) for mark, end in zip(marks, ends, strict=True)]


def _ruled(text: str) -> list[Part]:
    return [Part(a.end(), b.start()) for a, b in pairwise(_RULE.finditer(text))]


def _quoted(text: str) -> list[Part]:
    for quotes in ('"""', "'''"):
        at = [match.start() for match in re.finditer(quotes, text)]
        if len(at) > 1:
            return [Part(a + 3, b) for a, b in zip(at[::2], at[1::2], strict=False)]
    fences = list(_FENCE.finditer(text))
    pairs = zip(fences[::2], fences[1::2], strict=False)
    return [Part(a.end(), b.start()) for a, b in pairs if a[1].lower() in _PROSE_FENCES]


def _headed(text: str) -> list[Part]:
    heading = _HEADING.search(text)
    return [Part(heading.end(), _end(text, heading.end()))] if heading else []


def _introduced(text: str) -> list[Part]:
    """What follows an announcement: behind its colon, else behind the next blank line or rule, else the next line.

    Of several announcements ("the following question ...: the following passages:") the first with a colon decides.
    """
    found = list(islice(_ANNOUNCED.finditer(text), ANNOUNCEMENTS))
    if not found:
        return []
    for match in found:
        colon = match.end() - match[0].endswith(":")
        if text.startswith(":", colon):
            return [Part(colon + 1, _end(text, colon))]
    first = found[0].end()
    end = _end(text, first)
    gap = _BREAK.search(text, first, min(end + 1, len(text)))
    start = gap.end() if gap else text.find("\n", first)
    return [Part(start, end)] if 0 <= start < end else []


def _end(text: str, start: int) -> int:
    """Where material that begins at `start` ends: at the last label of a question behind it, else at the first of an
    answer, else before a last line that is a question."""
    for label in (ASK_LABEL, END_LABEL):
        found = [match.start() for match in label.finditer(text, start)]
        if found:
            return found[-1] if label is ASK_LABEL else found[0]
    last = text.rstrip().rfind("\n") + 1
    return last if last > start and _is_question(text[last:]) and text[start:last].strip() else len(text)


def _long(text: str) -> tuple[Passage, ...]:
    stripped = text.strip()
    head, _, below = stripped.partition("\n")
    above, _, tail = stripped.rpartition("\n")
    for line, body in ((tail, above), (head, below)):
        body = body.strip()
        if len(body) < PASTED or len(line) > ASKING or elsewhere(line):
            continue
        asks = summary(line) or (_is_question(line) and refers(line, body) and not opinion(line))
        if asks and _prose(body):
            return (Passage(body),)
    return ()


def _is_question(line: str) -> bool:
    return line.rstrip().endswith(("?", "？"))


def _prose(body: str) -> bool:
    lines = body.count("\n") + 1
    bullets = sum(1 for _ in _BULLET.finditer(body))
    ends = sentence_ends(body)
    return ends >= 2 and 2 * bullets <= lines and not spoken(body) and not _code(body)


def _code(body: str) -> bool:
    """More than one line in five looks like code, a log or markup."""
    lines = sum(1 for line in body.splitlines() if line.strip())
    return 5 * sum(1 for _ in _CODE_LINE.finditer(body)) > lines


FORMS: tuple[tuple[Callable[[str], list[Part]], int], ...] = (
    (_tagged, EXPLICIT),
    (_numbered, EXPLICIT),
    (_ruled, EXPLICIT),
    (_quoted, QUOTED),
    (_headed, EXPLICIT),
    (_introduced, EXPLICIT),
)
