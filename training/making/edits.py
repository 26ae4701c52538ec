"""Answers made from passages without a model: faithful ones, and the same with exactly one mistake.

    for faithful, unfaithful in answers(passages, random.Random(0), 20): ...

A faithful answer is one to three sentences of the passages, verbatim or with harmless parts left out. An unfaithful one
is the same text with one coherent edit: another number, date or name, a negation more or less, an opposite.

A word that edits bring in is, over many pairs, about as frequent as one they take away, so that no word alone tells the
label: an edit of a common word into a rare one is offered as seldom as the rare word is found (`_offered`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, pairwise

from groundwire.sentences import sentences

FAITHFUL = ("plain", "compressed", "joined", "list")
UNFAITHFUL = ("number", "date", "name", "roles", "negation", "quantifier", "trend", "order", "mixed")
MAX_PASSAGES, MAX_CHARACTERS, MAX_SENTENCES = 64, 20_000, 400  # what is beyond is not read
MIN_WORDS, MAX_WORDS = 5, 45  # of a sentence that is taken
PATIENCE = 24  # answers begun in vain, one after another, before no more are looked for

Change = tuple[tuple[int, int, str], ...]  # (start, end, what stands there instead), in order and apart


@dataclass(frozen=True)
class Made:
    """One answer. label: 1 = unfaithful. spans: code points `[start, end)` of the mistake in `text`, () for none."""

    text: str
    kind: str
    label: int
    spans: tuple[tuple[int, int], ...]


def answers(passages: Sequence[str], rng: random.Random, count: int) -> list[tuple[Made, Made]]:
    """Up to `count` different pairs (faithful, unfaithful) that differ by the one mistake only.

    The pairs are fewer where the passages hold too few whole sentences, or nothing that can be edited. The same `rng`
    gives the same pairs.
    """
    pool = _Pool.of(passages, rng)
    made: dict[tuple[str, str], tuple[Made, Made]] = {}  # of each sentence one of each kind
    vain = 0
    while pool.sources and len(made) < count and vain < PATIENCE:
        vain += 1
        draft = _draft(pool, rng)
        found = _mistaken(draft, pool, rng) if draft else None
        if draft is None or found is None:
            continue
        piece, wrong = found
        if (piece.source.text, wrong.kind) not in made:
            made[piece.source.text, wrong.kind] = (Made(draft.text, draft.kind, 0, ()), wrong)
            vain = 0
    return list(made.values())


# ---- Words


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


@dataclass(frozen=True)
class _Token:
    start: int
    end: int
    text: str  # without the punctuation around it


_PUNCTUATION = "\"'“”‘’«»„(),.;:!?[]{}…*_–—"
_INITIALS = re.compile(r"[A-Z](?:\.[A-Z]){0,3}\Z")
_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAY = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
_MONTHS, _DAYS = _MONTH.split("|"), _DAY.split("|")


@lru_cache(maxsize=4096)
def _tokens(text: str) -> tuple[_Token, ...]:
    """The words of a text. A possessive 's belongs to none; the full stop of an initial belongs to it."""
    found = []
    for match in re.finditer(r"\S+", text):
        word = match[0]
        start = match.start() + len(word) - len(word.lstrip(_PUNCTUATION))
        bare = word.strip(_PUNCTUATION)
        if bare.endswith(("'s", "’s")):
            bare = bare[:-2]
        end = start + len(bare)
        if bare and text[end : end + 1] == "." and end + 1 < len(text) and _INITIALS.match(bare):
            end += 1
        if bare:
            found.append(_Token(start, end, text[start:end]))
    return tuple(found)


def _words(text: str) -> list[str]:
    return [token.text.lower() for token in _tokens(text)]


def _capital(word: str) -> bool:
    return word[0].isupper()


def _before(text: str, start: int) -> str:
    """The word just before `start`, in lower case; "" where punctuation or nothing stands there."""
    left = text[max(0, start - 40) : start]
    word = left.rstrip(" ").rpartition(" ")[2]
    return word.lstrip("(\"“'‘").lower() if left.endswith(" ") and word[-1:].isalnum() else ""


def _after(text: str, end: int) -> list[str]:
    """The two words just after `end`, in lower case, up to the first punctuation."""
    found: list[str] = []
    if text[end : end + 1] != " ":
        return found
    for word in text[end + 1 : end + 80].split(" ")[:2]:
        found.append(word.rstrip(_PUNCTUATION).lower())
        if word[-1:] in _PUNCTUATION or not word:
            break
    return found


def _cased(old: str, new: str) -> str:
    """`new` with the capital that `old` has."""
    return new[:1].upper() + new[1:] if _capital(old) else new


def _plural(word: str) -> bool:
    if word in {"people", "children", "men", "women", "police"}:
        return True
    return len(word) > 3 and word.isalpha() and word.endswith("s") and not word.endswith(("ss", "us", "is", "ous"))


def _takes_an(word: str) -> bool:
    """Whether "an" stands before a word or number."""
    if word[:1].isdigit():
        return word[0] == "8" or re.match(r"1[18](?:\D|\Z)", word) is not None
    if len(word) > 1 and word[:2].isupper():
        return word[0] in "AEFHILMNORSX"
    low = word.lower()
    if low.startswith(("uni", "use", "usu", "euro", "ewe", "one", "once", "ubi", "uti")) and not low.startswith("unin"):
        return False
    return low[:1] in "aeiou" or low.startswith(("hour", "honest", "honor", "honour", "heir"))


# ---- What the passages hold


@dataclass(frozen=True)
class _Value:
    """A number or name at `[start, end)` of a text. look: values of one look can be exchanged."""

    start: int
    end: int
    text: str
    look: tuple[object, ...]


@dataclass(frozen=True)
class _Source:
    """A sentence that may be taken.

    leans: only together with the sentence before it, the source number `before`. deniable: whether a negation may be
    put in; as many sentences are as there are negated ones. weight: how often it is taken.
    """

    text: str
    passage: int
    leans: bool
    before: int | None
    deniable: bool
    weight: float
    words: frozenset[str]
    values: tuple[_Value, ...]


@dataclass(frozen=True)
class _Pool:
    """What answers are made of: sentences, their values, and how words are written elsewhere."""

    sources: tuple[_Source, ...] = ()
    written: str = ""  # all passages, without case and with single spaces
    lower: frozenset[str] = field(default_factory=frozenset)  # words that occur without a capital
    names: dict[str, str] = field(default_factory=dict)  # names seen inside sentences, and what they seem to be
    drawn: dict[str, float] = field(default_factory=dict)  # what `luck` gave

    def luck(self, place: str, rng: random.Random) -> float:
        """A number drawn once for each place, so that what is seldom offered stays so however often it is asked for."""
        return self.drawn.setdefault(place, rng.random())

    @classmethod
    def of(cls, passages: Sequence[str], rng: random.Random) -> _Pool:
        texts = [passage[:MAX_CHARACTERS] for passage in passages[:MAX_PASSAGES]]
        taken: list[tuple[str, int, bool, int | None]] = []
        for number, text in enumerate(texts):
            before: int | None = None
            for sentence in sentences(text):
                line = text[sentence.start : sentence.end]
                if len(taken) >= MAX_SENTENCES:
                    break
                if not _usable(line):
                    before = None
                    continue
                taken.append((line, number, _leans(line), before))
                before = len(taken) - 1
        lower = frozenset(w for text in texts for w in re.findall(r"\b[a-z]{1,30}\b", text))
        names = _known_names([line for line, *_ in taken], lower)
        negated = [_NEGATIVE.search(line) is not None for line, *_ in taken]
        share = (sum(negated) + 10 * _NEGATED) / (len(taken) + 10)
        sources = []
        for (line, number, leans, before), is_negated in zip(taken, negated, strict=True):
            deniable = not is_negated and rng.random() < share
            weight = 8.0 if is_negated or deniable else 3.0 if _RARE.search(line) else 1.0
            words, values = frozenset(_words(line)), (*_numbers(line), *_names(line, names))
            sources.append(_Source(line, number, leans, before, deniable, weight, words, values))
        return cls(tuple(sources), _normal(" ".join(texts)), lower, names)


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


_LEANING = _set(
    "he she it they this these those that his her its their him them such both neither either another others other "
    "then afterwards afterward later subsequently instead similarly so thus therefore hence consequently and but or "
    "nor yet also still here again who which whose where while whereas because one former latter same meanwhile "
    "likewise otherwise eventually finally soon elsewhere nevertheless nonetheless however"
)
_PRONOUNS = _set("he she it they his her its their him them this these those")
_GLUED = re.compile(
    r"[a-z0-9)\"”][.!?]?[\"”)]?[A-Z][a-z]{1,20} |\.\d{0,2}[A-Z]|[.,;]{2}| [,.;]|==|\||\*\*|https?:|www\.|\A\d+\."
)
_END = re.compile(r"[^\s.][.!]\Z")


def _usable(line: str) -> bool:
    """Whether a line is a whole statement that can stand in an answer."""
    words = line.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not _END.search(line):
        return False
    if not (line[0].isupper() or line[0].isdigit()):
        return False
    if any(line.count(a) != line.count(b) for a, b in ("()", "[]", "“”", "{}")) or line.count('"') % 2:
        return False
    if _GLUED.search(line) or line.startswith(("Note", "See also", "Figure", "Table")):
        return False
    return sum(word[0].islower() for word in words) * 3 >= len(words) and _VERB.search(line) is not None


def _leans(line: str) -> bool:
    """Whether a sentence speaks of something that only the sentence before it names."""
    line = _OPENING.sub("", line, count=1)
    words = _words(line)
    if (
        not words
        or words[0] in _LEANING
        or words[:2] in (["the", "former"], ["the", "latter"], ["the", "same"], ["the", "other"])
    ):
        return True
    _, comma, rest = line[:70].partition(", ")
    return not _PRONOUNS.isdisjoint(words[:4]) or bool(comma and _words(rest)[:1] and _words(rest)[0] in _PRONOUNS)


# ---- Names

_LINKS = _set("of de la del di da van von der du el al bin ibn bint abu")
_SORTS = {
    "school": "University College School Institute Academy",
    "department": "Faculty Department",
    "company": "Company Corporation Inc Ltd Group Records Bank Press Studios Entertainment Industries Airlines Limited",
    "body": "Party Committee Council Court Commission Board Ministry Agency Association Organization Society Union "
    "Parliament Assembly Congress Senate Government Foundation Federation Church Authority Office Army Navy",
    "team": "Club Team United City Rovers Town Athletic FC Tigers Lions Bears Eagles Giants Kings",
    "prize": "Award Awards Prize Medal Cup Championship Championships League Trophy Games Series Festival Tournament",
    "road": "Street Road Avenue Bridge Highway Station Airport Railway Line",
    "land": "River Lake Mountain Mountains Island Islands Sea Ocean Valley Bay Creek Park Forest Hills Mount",
    "area": "County District Province State Region Republic Kingdom Township Territory",
    "war": "War Battle Revolution Treaty Act Agreement",
}
_SORT_OF = {word: sort for sort, words in _SORTS.items() for word in words.split()}
_PLACES = _set("in near around across throughout")
_PEOPLE = _set(
    "by brother sister son daughter wife husband father mother singer actor actress director writer author coach "
    "manager player composer producer president minister mr mrs ms dr sir king queen architect engineer artist "
    "musician guitarist drummer bassist friend teammate poet lawyer politician senator"
)
_SAYS = _set(
    "said wrote was born says writes played joined married died argued stated claimed told became directed scored "
    "has had who he she"
)
_NOT_NAMES = frozenset([*_MONTHS, *_DAYS]) | _set("I The A An No Mr Mrs Dr Earth Internet DVD TV BC AD CE")
_PEOPLES = re.compile(r"(?:ish|ese|ian|can|ean|French|Dutch|Greek|German|Swiss|Welsh|Iraqi|Israeli|Pakistani|Thai)\Z")


def _runs(text: str, lower: frozenset[str]) -> Iterator[tuple[int, int, str, bool]]:
    """Capitalised runs of a sentence: (start, end, run, whether it begins the sentence)."""
    tokens = _tokens(text)

    def next_to(i: int) -> bool:
        return i + 1 < len(tokens) and text[tokens[i].end : tokens[i + 1].start] == " "

    i = 0
    while i < len(tokens):
        if not _capital(tokens[i].text) or (i == 0 and _common(tokens, lower)):
            i += 1
            continue
        last = reach = i
        while next_to(reach) and reach - last < 3:
            reach += 1
            word = tokens[reach].text
            if _capital(word) and word not in _MONTHS:
                last = reach
            elif word not in _LINKS and not (word == "the" and tokens[reach - 1].text == "of"):
                break
        start, end = tokens[i].start, tokens[last].end
        opens = i == 0 or text[: tokens[i].start].rstrip()[-1:] in ':."“”'
        yield start, end, text[start:end], opens
        i = last + 1


def _common(tokens: Sequence[_Token], lower: frozenset[str]) -> bool:
    """Whether the word that begins a sentence would have no capital elsewhere."""
    first = tokens[0].text
    if first.lower() in _FUNCTION:
        return True
    return first.lower() in lower and (len(tokens) < 2 or not _capital(tokens[1].text))


_FUNCTION = _set(
    "the a an in on at by for from of to with as after before during since until when while although though because "
    "he she it they this these those that his her its their there all some many most few several both each every "
    "no one two three four five six seven eight nine ten another other such under over between among through "
    "according following if you we our your not only more less at about within without upon despite unlike like "
    "it's what how where who which and but or nor yet so then once today now later early"
)


def _named(run: str) -> bool:
    words = run.split()
    return (
        len(words) <= 6
        and len(run) > 2
        and not any(character.isdigit() for character in run)
        and not any(word in _NOT_NAMES for word in words)
        and not (run.isupper() and "." in run)
    )


def _known_names(lines: Sequence[str], lower: frozenset[str]) -> dict[str, str]:
    """Names seen inside a sentence, in order, and what each seems to be: of `_SORTS`, a person, a place or a thing.

    Whoever is called by a part of a name elsewhere is a person; such a part may begin its sentence.
    """
    found: dict[str, str] = {}
    singles: dict[str, None] = {}
    for line in lines:
        for start, end, run, opens in _runs(line, lower):
            if not _named(run) or run.lower() in lower or run.lower() in _FUNCTION:
                continue
            if " " not in run:
                singles[run] = None
            if not opens and found.get(run, "thing") == "thing":
                found[run] = _sort(line, start, end, run)
    for run, sort in list(found.items()):
        words = run.split()
        if 2 <= len(words) <= 4 and sort in ("thing", "person") and words[-1] in singles and _LINKS.isdisjoint(words):
            found[run] = found[words[-1]] = "person"
    return found


def _sort(line: str, start: int, end: int, run: str) -> str:
    words, before, after = run.split(), _before(line, start), _after(line, end)
    if len(words) == 1 and _PEOPLES.search(run):
        return "people" if after and after[0].isalpha() else "peoples"
    for word in (words[-1], words[0]):
        if len(words) > 1 and word in _SORT_OF:
            return _SORT_OF[word]
    if run.isupper():
        return "letters"
    if words[-1] == "State" or words[0] in ("Northern", "Southern", "Eastern", "Western", "Middle"):
        return "team"
    if before in _PLACES and not _modifies(after):
        return "place"
    if len(words) <= 3 and (before in _PEOPLE or (after and after[0] in _SAYS and before != "the")):
        return "person" if before != "by" or len(words) > 1 else "thing"
    return "thing"


def _modifies(after: Sequence[str]) -> bool:
    """Whether a name stands before a noun, as in "the Paris office"; a verb that is not known here is taken for one."""
    word = after[0] if after else ""
    known = word in _FUNCTION | _BE | _SAYS | _HAVE or word in _BASE or word in _THIRD
    return word.isalpha() and not known and not word.endswith("ed")


def _names(line: str, known: dict[str, str]) -> Iterator[_Value]:
    """The names of a sentence; at its beginning, only such as are known from inside another."""
    lower = frozenset[str]()
    for start, end, run, _ in _runs(line, lower):
        if run not in known:
            continue
        sort, before = known[run], _before(line, start)
        shape = 1 if " " not in run else 2
        if line.count(run) > 1 or line[end:].startswith((" al-", " el-", "' ", "’ ")):
            continue
        if sort != "thing" or before not in ("", "and", "or"):
            near = before if sort == "thing" else before in ("the", "a", "an")
            yield _Value(start, end, run, ("name", sort, shape, near, _modifies(_after(line, end))))


# ---- Numbers and dates

_NUMBER = re.compile(
    r"(?<![\w.,:/–—−+*#^=~°′″-])(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,9})(?:\.\d{1,3})?(?![\w°′″]|[.,:/–—−-]\d|[–—−]|-[A-Z])"
)
_ORDINAL = re.compile(r"(?<![\w.,-])(\d{1,3})(?:st|nd|rd|th)\b")
_DECADE = re.compile(r"(?<![\w.,-])(1[5-9]|20)(\d)0s\b")
_SPELT = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_SPELT_NUMBER = re.compile(rf"(?<![\w-])(?:{'|'.join(_SPELT)})(?![\w])(?!-[a-z]{{1,5}}\b)")
_DATE = re.compile(
    rf"\b(?:(?P<day>\d{{1,2}}) (?P<month>{_MONTH})(?:,? (?P<year>[12]\d{{3}}))?"
    rf"|(?P<month2>{_MONTH}) (?P<day2>\d{{1,2}})(?:,? (?P<year2>[12]\d{{3}}))?"
    rf"|(?P<month3>{_MONTH})(?:,| of)? (?P<year3>[12]\d{{3}}))(?![\w–—-])"
)
_MONTH_ALONE = re.compile(
    rf"\b(?:in|since|until|by|from|during|early|late|mid|following|last|every|each) (?P<month>{_MONTH})(?![\w–—-])"
)
_WEEKDAY = re.compile(rf"(?<![\w-])(?P<weekday>{_DAY})(?![\w-])")
_SEASON = re.compile(
    r"\b(?:in|during|of|by|in the|during the|of the|early|late) (?P<season>spring|summer|autumn|winter)\b"
)
_YEAR_BEFORE = _set(
    "in since of from until till to by during and early late mid around circa year between before after summer winter "
    "spring autumn fall the season about for"
)


def _dates(line: str) -> list[re.Match[str]]:
    return list(_DATE.finditer(line))


def _years(line: str) -> list[int]:
    """Every number that looks like a year, in order."""
    return [int(found[0]) for found in re.finditer(r"(?<!\d)(?<!\d[.,])[12]\d{3}(?![\d,])", line)]


def _numbers(line: str) -> Iterator[_Value]:
    """The numbers of a sentence that are no part of a date, a range, a score or a conversion."""
    taken = [found.span() for found in _dates(line)]
    for found in _NUMBER.finditer(line):
        start, end = found.span()
        if any(a <= start < b for a, b in taken) or _converted(line, start, end):
            continue
        digits = found[0].replace(",", "")
        whole = digits.partition(".")[0]
        if digits in ("0", "1") or (len(whole) > 1 and whole[0] == "0"):
            continue
        decimals = len(digits) - len(whole)
        before, after = _before(line, start), _after(line, end)
        percent = line[end : end + 1] == "%" or after[:1] == ["percent"] or after[:2] == ["per", "cent"]
        if percent:
            look: tuple[object, ...] = ("percent", decimals)
        elif line[start - 1 : start] in tuple("$£€¥") and start:
            look = ("money", len(whole), decimals, "," in found[0])
        elif _is_year(found[0], before, line[start - 1 : start], after):
            look = ("year",)
        else:
            look = ("count", min(len(whole), 5), decimals, "," in found[0])
        yield _Value(start, end, found[0], look)
    for found in _ORDINAL.finditer(line):
        if _after(line, found.end())[:1] != ["of"]:
            yield _Value(*found.span(), found[0], ("ordinal", _after(line, found.end())[:1] == ["century"]))
    for found in _DECADE.finditer(line):
        yield _Value(*found.span(), found[0], ("decade",))
    for found in _SPELT_NUMBER.finditer(line):
        if _before(line, found.start()) not in ("one", "or", "and", "of", "all", "than", "to"):
            yield _Value(*found.span(), found[0], ("spelt",))


def _is_year(number: str, before: str, mark: str, after: Sequence[str]) -> bool:
    if not re.fullmatch(r"1[1-9]\d\d|20[0-4]\d", number):
        return False
    counted = bool(after) and (_plural(after[0]) or after[0] in ("people", "metres", "meters", "km", "ft", "acres"))
    return mark == "(" or ((before in _YEAR_BEFORE or not before) and not counted)


def _converted(line: str, start: int, end: int) -> bool:
    """Whether the same quantity stands beside a number in another unit: "8 mi (13 km)"."""
    inside = line.rfind("(", max(0, start - 30), start) > line.rfind(")", max(0, start - 30), start)
    if inside and not re.match(r"[12]\d{3}\)", line[start : end + 1]):
        return True
    return re.match(r"[\w ²³/-]{1,25}\([^a-zA-Z()]{0,4}\d", line[end : end + 40]) is not None


def _perturbed(value: _Value, rng: random.Random) -> str | None:
    """A number near `value`, written as it is; None where there is none."""
    sort, text = value.look[0], value.text
    if sort == "year":
        shift = rng.choice((1, 1, 2, 2, 3, 4, 5, 6, 8, 10, 12, 20)) * rng.choice((-1, 1))
        return str(int(text) + shift)
    if sort == "decade":
        return f"{int(text[:-1]) + 10 * rng.choice((-3, -2, -1, 1, 2))}s"
    if sort == "ordinal":
        number = int(text[:-2]) + rng.choice((-4, -3, -2, -1, 1, 2, 3, 4))
        most = 21 if value.look[1] else 999  # centuries
        return f"{number}{_suffix(number)}" if 0 < number <= most else None
    if sort == "spelt":
        place = _SPELT.index(text) + rng.choice((-3, -2, -1, 1, 2, 3))
        return _SPELT[place] if 0 <= place < len(_SPELT) else None
    whole, _, decimals = text.replace(",", "").partition(".")
    old, bound = float(f"{whole}.{decimals or 0}"), 100.0 if sort == "percent" else 10.0 ** len(whole)
    if old < 10 and not decimals:
        new = old + rng.choice((-4, -3, -2, -1, 1, 2, 3, 4))
    else:
        new = old * rng.choice((0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.1, 1.2, 1.3, 1.5, 1.8, 2.1))
    zeros = 0 if decimals else len(whole) - len(whole.rstrip("0"))
    new = round(new / 10**zeros) * 10.0**zeros if zeros else round(new, len(decimals))
    if zeros == 0 and not decimals and new >= 20 and new % 10 == 0:
        new += rng.choice((-3, -2, -1, 1, 2, 3))  # as unround as the number was
    if new == old or not 1 < new < bound or (len(whole) > 1 and new < bound / 10):
        return None
    return f"{new:{',' if ',' in text else ''}.{len(decimals)}f}"


def _suffix(number: int) -> str:
    return "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _in_order(line: str, start: int, end: int, new: str) -> bool:
    """Whether the years of a sentence keep their order, and none stands twice, with `new` at `[start, end)`."""
    old, now = _years(line), _years(line[:start] + new + line[end:])
    if len(old) != len(now) or (len(set(now)) < len(now) and len(set(old)) == len(old)):
        return False
    if any(year > 2030 >= max(old) for year in now):
        return False
    return all((c < d) == (a < b) for (a, b), (c, d) in zip(pairwise(old), pairwise(now), strict=True))


# ---- Opposites

_QUANTIFIERS = """at least > at most, no more than, fewer than|at most > at least, more than
no more than > at least, more than|no fewer than > at most|more than > less than, fewer than|less than > more than
fewer than > more than, at least|up to > at least, more than|over > under|under > over|nearly > more than, over
almost > more than, over|only > more than|just over > just under|just under > just over
all of > none of, half of|none of > all of, some of, most of|some of > all of, none of
most of > none of, all of|many of > few of, none of, all of|few of > many of, most of, all of|each of > none of
both of > neither of|neither of > both of|half of > a third of, all of, a quarter of|all the > none of the
all > no, few|some > all, no|many > few, no|most > few, no|few > many, most|a few > many, no
several > no, two, dozens of|numerous > few, no|no > many, several, some, all|every > no|each > no
always > never, rarely|often > rarely, never, always|frequently > rarely, never
usually > rarely, never, always|generally > rarely|typically > rarely|sometimes > never, always
rarely > often, usually, always|seldom > often|never > often, always, sometimes|entirely > partly|completely > partly
fully > partly|exclusively > partly|partly > entirely, fully|partially > fully, completely|twice > three times
three times > four times"""
# These hold both ways.
_TRENDS = """increased/decreased|increase/decrease|increases/decreases|increasing/decreasing|rose to/fell to
rose by/fell by|rose from/fell from|risen/fallen|rising/falling|higher/lower|high/low|highest/lowest|larger/smaller
largest/smallest|bigger/smaller|biggest/smallest|longer/shorter|longest/shortest|taller/shorter|tallest/shortest
older/younger|oldest/youngest|heavier/lighter|faster/slower|fastest/slowest|stronger/weaker|wider/narrower
better/worse|best/worst|more/less|more/fewer|the most/the least|north/south|northern/southern|east/west
eastern/western|northeast/southwest|northwest/southeast|northeastern/southwestern|northwestern/southeastern|won/lost
win/lose|wins/losses|won against/lost to|defeated/lost to|victory/defeat|accepted/rejected|approved/rejected
approve/reject|allowed to/forbidden to|permitted to/forbidden to|allowed/forbidden|permitted/prohibited|allows/forbids
opened/closed|opening of/closing of|began/ended|begins/ends|started/ended|the start of/the end of
the beginning of/the end of|with a/without a|with an/without an|without any/with some|above/below|inside/outside
upper/lower|early/late|male/female|positive/negative|public/private|domestic/foreign|major/minor|supported/opposed
supports/opposes|in favour of/against|in favor of/against|joined the/left the|arrived in/departed from|gained/lost
bought/sold|wet/dry|warm/cold|hot/cold|warmer/cooler|improved/worsened|strengthened/weakened|successful/unsuccessful
successfully/unsuccessfully|legal/illegal|urban/rural|possible/impossible|permanent/temporary|amateur/professional
left bank/right bank|left side/right side|left hand/right hand|left arm/right arm|left foot/right foot
on the left/on the right|upstream/downstream|imports/exports|imported/exported|mandatory/optional|compulsory/optional
expanded/reduced|popular/unpopular|the same/a different|similar to/different from|easy/difficult|strong/weak
small/large|short/long|praised/criticised|praised/criticized|favourable/unfavourable|favorable/unfavorable
included/excluded|includes/excludes|formal/informal|directly/indirectly|voluntary/compulsory|safe/dangerous
tropical/temperate|horizontal/vertical|internal/external|maternal/paternal|innocent/guilty|convicted of/acquitted of
agreed to/refused to|confirmed/denied|encouraged/discouraged|expensive/cheap|thousands of/hundreds of
millions of/thousands of|hundreds of/dozens of|morning/evening|afternoon/morning|quickly/slowly|must/may
majority/minority|maximum/minimum|profit/loss|loss of/gain of"""
_ORDERS = """before/after|first/last|first/second|second/third|third/fourth|fourth/fifth|first/third|fifth/sixth
second/fourth|sixth/seventh|years later/years earlier|year later/year earlier|months later/months earlier
month later/month earlier|weeks later/weeks earlier|days later/days earlier|day later/day earlier
the next/the previous|following/preceding|preceded by/followed by|predecessor/successor|prior to/after|since/until
former/current|later/earlier"""

# What must stand before and after a phrase that is to be taken so, and after "-" what must not. A colon names a class.
_CONTEXTS = """over | -won -win -victory -triumph -control -by -all -wins -take | :number
only | -the -not | :number
at least, at most, no more than, no fewer than, more than, less than, fewer than, up to | | :number
under, nearly, almost, just over, just under | | :number
all of, most of | -almost -nearly -not -after -above -make -made -the | :own
none of, some of, many of, few of, each of, both of, neither of | -the -a | :own
half of | -the -a -first -second -last -other -latter -better | :own
all the | -of -over -at -not -almost -nearly -in -is -for | :plural
all | -above -at -of -not -almost -nearly -over -first -after -for -and -with -the -they -them -we -us -you | :plurals
some, many, several, numerous, few | -:degree -in | :plurals
a few | -only -the -quite | :plurals
no | -or -with -have -by -there -if -in | :plural
most | -the -at -a -his -her -its -their | :plural
every | -almost -nearly -of -not -once -for | :thing -:time -other -one -single -two -few -so
each | :nothing | :thing -:time -other -side
always, entirely, completely, fully, exclusively | -almost -not -nearly | :word -or -and
often, frequently, usually, generally, typically, sometimes | -:degree -less -quite -even | :word -as -or -and
rarely, seldom | -:degree | :word -as -or -and
twice, three times | | -as -that
increase, decrease | -to -not -will -would -can -could | :word
higher, lower | -to | :word -education
high, low | -junior -senior | :thing -school -schools -court -street -commissioner -priest -command -seas -profile
more | -no -any -once -much -many -some -and -ever -few -several -far -or -even -not -further -:number -one | :quality
less, fewer | -no -or -much -more -and -nothing -not -:number -one | :quality
longer, shorter | -no -any |
best, worst | :own | :word -known -selling -actor -actress -picture -friend -friends -man -remembered -of
better, worse | | -known
won | -:be | :own a an by -over
lost | -:be -a | the by control weight support popularity seats
win, lose | to not would could will can |
wins, losses | :number |
lost to, won against | -:be -a |
defeated | -:be -and -a -an -the -had -has | :word -by -in -and -at
accepted, rejected, approved | -generally -widely |
allowed, forbidden, permitted, prohibited, allowed to, permitted to, forbidden to | :be |
opened, closed | | -fire -up -off -down
began, begins, started, ended, ends | -:be | in on at his her its their when after before
with a, with an | :word -:ended -:partner | -few -view
above, below | -the -mentioned -described -shown -listed -as -see -and -from -over | the a sea average :number
inside, outside | | :word -of
upper | | :thing
early, late | -as | :date
public, private, domestic, foreign, major, minor, urban, rural | | :thing -league
short, small, large, strong, weak, tropical, temperate, cold, hot, warm, wet, dry, internal, external | | :thing
long | -not -did -as -so -how | :thing -dead
amateur, professional, formal, informal, positive, negative, permanent, temporary | | :thing
northern, southern, eastern, western, upper | | :word
north, south, east, west | | -:number
supported, opposed | -as | :own by
in favour of, in favor of, against | voted vote argued campaigned spoke ruled voting arguments decided votes | :word
joined the, left the | -the -:be -on -his -her -its -to -far -and |
gained | -had -has |
possible, impossible | -as -if -where -when -only |
the same | -at -much -about -all -in | -time -way -for -to -day -year -with -manner -as
rose to | | -prominence -fame -power -the
included, excluded, expanded, reduced | :be |
confirmed, denied | -:be | that
profit | net operating annual a | of for in
loss | net operating annual | of for in
loss of, gain of | | :number
must | -a -the | :word
may | -in -of -since -early -late | :word
praised, criticised, criticized | | :own by
before | -never -ever -appeared -appears -brought -come -came -argued -as -speak -spoke -put -night -lay | :word -long
after | -:naming -look -looks -looked -looking -took -take -sought -ever -one -day -year | :word -all -which -that
prior to | | :word
first | -at | :word -name -names -lady -person -aid -hand -and -of
last | :own | :word -:time -:number -name -names -few -minute -until -for -in -and
second, third, fourth, fifth, sixth, seventh | :own a | :word
later, earlier | -or -and -no | than in that
since, until | -ever -and | :date
former, current | :own | :thing
following, preceding | the | :time
the next, the previous | | :thing"""


def _both_ways(rows: str) -> dict[str, tuple[str, ...]]:
    table: dict[str, list[str]] = {}
    for row in re.split(r"[|\n]", rows):
        one, _, other = row.partition("/")
        table.setdefault(one, []).append(other)
        table.setdefault(other, []).append(one)
    return {word: tuple(others) for word, others in table.items()}


def _one_way(rows: str) -> dict[str, tuple[str, ...]]:
    pairs = [row.split(" > ") for row in re.split(r"[|\n]", rows)]
    return {old: tuple(news.split(", ")) for old, news in pairs}


_TABLES = {"quantifier": _one_way(_QUANTIFIERS), "trend": _both_ways(_TRENDS), "order": _both_ways(_ORDERS)}
_PHRASES = {
    kind: re.compile(rf"(?<![\w'’–/-])(?:{'|'.join(sorted(table, key=len, reverse=True))})(?![\w'’–/-])", re.IGNORECASE)
    for kind, table in _TABLES.items()
}
_AROUND = {
    phrase: (before.split(), after.split())
    for phrases, before, after in (row.split("|") for row in _CONTEXTS.split("\n"))
    for phrase in phrases.strip().split(", ")
}
_BE = _set("is are was were be been being not")
_CLASSES = {
    "own": _set("the his her its their our your my these those them whom which"),
    "be": _BE,
    "time": _set(
        "year years day days week weeks month months season seasons decade decades century time times night summer"
    ),
    "degree": _set(
        "so as how too the very a not these those his its their every last first next past than this only more most no"
    ),
    "partner": _set(
        "along together up begins ends begin end deal work works deals contract conjunction line accordance interview "
        "come relationship meeting and or but met partnership affair association agreement came comes goes go out down "
        "collaboration"
    ),
    "naming": _set("named called titled modelled modeled renamed nicknamed name patterned christened"),
}


def _is(sort: str, words: Sequence[str]) -> bool:
    """Whether the first of `words` is of a class, or is that word. The second one matters to `plurals` only."""
    word = words[0] if words else ""
    if sort[0] != ":":
        return word == sort
    sort = sort[1:]
    if sort in _CLASSES:
        return word in _CLASSES[sort]
    if sort == "number":
        return word[:1].isdigit() or word[:1] in tuple("$£€¥") or word in (*_SPELT, "half", "twenty", "thirty")
    if sort == "plurals":
        return _plurals(words)
    if sort == "date":
        return word[:1].isdigit() or word.capitalize() in (*_MONTHS, "Spring", "Summer", "Autumn", "Winter")
    checks = {
        "nothing": not word,
        "word": word != "",
        "thing": word.isalpha() and word not in _FUNCTION | _BE | _SAYS,
        "quality": word.isalpha() and word not in _FUNCTION | _VAGUE,
        "plural": _plural(word),
        "ended": word.endswith(("ed", "ing")),
    }
    return checks[sort]


_VAGUE = _set("than or and about recently specifically precisely generally broadly importantly accurately to of in for")


def _plurals(words: Sequence[str]) -> bool:
    """Whether a noun in the plural follows, perhaps after one other word."""
    if not words or not all(word.isalpha() for word in words) or words[0] in _FUNCTION:
        return False
    return _plural(words[0]) or (len(words) > 1 and words[0] not in _SAYS and _plural(words[1]))


def _sound(old: str, new: str, before: str, following: Sequence[str]) -> bool:
    """Whether `old`, between such words, means what the table of opposites takes it for, and `new` fits there."""
    for items, words in zip(_AROUND.get(old, ()), ([before], following), strict=False):
        wanted = [item for item in items if item[0] != "-"]
        if wanted and not any(_is(item, words) for item in wanted):
            return False
        if any(_is(item[1:], words) for item in items if item[0] == "-"):
            return False
    after = following[0] if following else ""
    if new == "no" and after in _CLASSES["time"]:
        return False
    if new in ("less", "fewer") and old == "more":
        return _plural(after) == (new == "fewer")
    if old == "lower":
        return (new == "upper") == (after in ("house", "floor", "level", "part", "deck", "half", "jaw", "reaches"))
    if old == "lost" and new in ("won", "gained"):
        return (new == "won") == (after in ("the", "by"))
    if old == "first" and before not in _CLASSES["own"] and (new != "last" or before not in _BE):
        return False
    if new in ("first", "last"):
        return before != "a" and not after.endswith(("est", "most"))
    return old != "third" or (before, after) != ("a", "of")


# Occurrences in a thousand sentences of an encyclopaedia, where `_sound`; what is missing is rare.
_FOUND = """both 8|neither 1.5|a different 0.6|a few 2.3|above 1.2|accepted 1.5|after 47|afternoon 0.3|against 0.9
agreed to 0.8|all 4.7|all of 1.3|all the 0.8|allowed 0.2|allowed to 0.8|allows 0.8|almost 0.5|always 1.3|amateur 0.8
approved 1.6|arrived in 0.9|at least 2.1|before 14|began 5.2|below 0.5|best 1.9|better 1.1|bigger 0.2|biggest 0.4
both of 0.7|bought 1.5|closed 2.1|cold 0.2|completely 1.2|compulsory 0.2|confirmed 0.3|convicted of 0.2|criticized 0.4
current 1.8|dangerous 0.3|days later 1.3|decreased 0.5|defeat 1.8|defeated 1.7|different from 0.2|difficult 1.7
directly 1.7|domestic 0.7|dozens of 0.5|dry 0.3|each 1.6|each of 0.8|earlier 0.4|early 4.1|east 2.0|eastern 2.1
easy 0.3|encouraged 0.7|ended 1.2|entirely 0.7|evening 0.6|every 1.2|exclusively 0.7|expanded 0.3|exported 0.2
exports 0.2|external 0.5|fallen 0.4|falling 0.5|faster 0.2|fastest 0.4|favorable 0.2|fell to 0.2|female 3.0|few 0.2
fewer 0.2|fifth 1.6|first 37|followed by 1.3|following 4.3|foreign 2.6|formal 0.6|former 2.9|fourth 2.2|frequently 0.8
fully 0.6|gained 2.7|generally 1.3|guilty 0.7|half of 1.5|high 3.7|higher 1.3|highest 2.0|horizontal 0.2|hot 0.5
hundreds of 0.6|illegal 0.6|imported 0.2|impossible 0.4|improved 0.7|included 1.4|includes 2.6|increase 0.8
increased 3.1|increasing 0.9|informal 0.2|inside 1.1|internal 0.8|joined the 4.1|large 5.7|larger 2.2|largest 3.0
last 2.9|late 3.5|later 1.7|left the 1.8|legal 2.1|less 1.2|less than 0.5|lighter 0.2|long 3.0|longer 0.9|longest 0.3
lose 0.2|lost 0.7|lost to 0.4|low 1.1|lower 2.3|lowest 0.4|major 4.5|majority 2.9|male 1.8|mandatory 0.4|many 6.0
many of 1.3|maternal 0.4|maximum 0.9|may 5.9|minimum 0.2|minor 1.3|minority 0.6|month later 0.2|months later 0.5
more 7.5|more than 3.0|morning 1.1|most 0.8|most of 2.2|must 1.7|nearly 1.0|negative 0.7|never 2.7|no 1.1|none of 0.3
north 4.3|northeast 0.8|northeastern 0.3|northern 2.3|northwest 0.5|northwestern 0.3|numerous 2.0|often 4.7|older 1.7
oldest 1.5|on the left 0.3|on the right 0.2|only 2.6|opened 3.8|opening of 0.4|opposed 0.3|outside 1.9|over 4.5
partially 0.9|partly 0.7|paternal 0.2|permanent 1.1|permitted to 0.2|popular 3.0|positive 1.3|possible 1.9|praised 0.4
predecessor 0.4|prior to 1.8|private 2.5|professional 5.8|public 6.7|quickly 1.6|rarely 0.4|reduced 0.4|refused to 1.4
reject 0.2|rejected 1.3|right hand 0.2|rising 0.6|rural 1.3|safe 0.6|second 12|seventh 0.7|several 9.5|short 2.5
shorter 0.4|similar to 1.3|since 7.2|sixth 0.6|slowly 0.2|small 5.9|smaller 1.6|sold 2.9|some 4.9|some of 2.7
sometimes 1.6|south 3.8|southeast 0.5|southeastern 0.3|southern 2.4|southwest 0.5|southwestern 0.6|started 2.2
strengthened 0.2|strong 1.6|stronger 0.4|successful 2.8|successfully 1.1|successor 1.1|supported 1.7|supports 0.4
temporary 0.7|the beginning of 2.3|the end of 5.9|the most 6.1|the next 2.8|the previous 1.9|the same 5.0
the start of 0.9|third 4.9|thousands of 0.4|three times 0.5|tropical 0.6|twice 1.3|typically 1.3|under 0.2
unsuccessful 0.9|unsuccessfully 0.4|until 7.0|up to 3.0|upper 1.8|upstream 0.2|urban 1.5|usually 1.7|vertical 0.3
victory 2.5|weak 0.4|weeks later 0.3|west 2.6|western 1.9|wet 0.2|wider 0.3|win 1.8|wins 0.4|with a 10|with an 1.8
with some 0.6|without a 0.7|without any 0.3|won 8.6|worsened 0.2|year later 0.9|years earlier 0.2|years later 2.2
younger 2.0|youngest 1.1"""
_RATES = {phrase: float(rate) for phrase, _, rate in (row.rpartition(" ") for row in re.split(r"[|\n]", _FOUND))}
_RARE_RATE = 0.1


def _offered(old: str, new: str, luck: float) -> bool:
    """Whether an edit is to be had: surely if `new` is as frequent as `old`, else with the chance of their ratio."""
    return luck * _RATES.get(old, _RARE_RATE) < _RATES.get(new, _RARE_RATE)


# ---- Negation

_IRREGULAR = """become became begin began win won lose lost leave left make made take took give gave hold held write
wrote lead led build built buy bought sell sold meet met grow grew know knew find found keep kept speak spoke teach
taught see saw send sent pay paid come came go went run ran have had rise rose fall fell get got say said think
thought stand stood bring brought catch caught draw drew fight fought"""
_REGULAR = """serve move play work receive join open close include complete publish release produce direct graduate
attend study marry retire return arrive appear start finish continue remain establish create design develop support
reach sign perform record earn live die change accept approve announce agree defeat score compete participate settle
visit want need use allow require cause offer follow state claim provide contain happen enter succeed exist affect
respond last seem expect consider depend answer report attempt attract prevent intend result convert discover deliver
show"""
_SURE = "include contain provide require allow produce serve remain continue receive offer appear become live take hold"


def _past(base: str) -> str:
    if base.endswith("e"):
        return base + "d"
    return base[:-1] + "ied" if base.endswith(("dy", "ry")) else base + "ed"


def _third(base: str) -> str:
    if base == "have":
        return "has"
    if base.endswith(("s", "sh", "ch", "x", "o")):
        return base + "es"
    return base[:-1] + "ies" if base.endswith("y") and base[-2:-1] not in "aeou" else base + "s"


_PAST = dict(zip(_IRREGULAR.split()[::2], _IRREGULAR.split()[1::2], strict=True))
_PAST |= {base: _past(base) for base in _REGULAR.split()}
_BASE = {past: base for base, past in _PAST.items()}
_THIRD = {_third(base): base for base in _SURE.split()}  # those that are no nouns
_NEGATED = 0.03  # share of the sentences that hold a negation, where nothing better is known
_HAVE = _set("has have had")
_VERB = re.compile(
    rf"\b(?:is|are|was|were|has|have|had|can|will|would|should|must|may|could|does|did|do|cannot|\w+n['’]t|[a-z]{{2,20}}ed"
    rf"|{'|'.join([*_BASE, *_THIRD])}|says?|consists?|goes|works|plays|lies|get|make|take|give|hold|know|keep|pay|need"
    r"|include|contain|receive)\b"
)
_DENIABLE = _set("is are was were can will would should must") | _HAVE
# With these before it, a negated verb may say what was said, or nothing.
_NOT_DENIED = re.compile(
    r"\b(?:if|unless|whether|neither|no|not|never|none|nor|hardly|without)\b"
    r"|\b(?:all|every|each|both|some|many|most|several|few|any|part)\b[^,;.]{0,40}\Z"
)
_DONE = _set(
    "been become made won taken given held written led built sold left lost known found kept had seen done gone"
)
_NO_NOT_AFTER = _set("as than so nor neither not if unless whether the a his her its their what there how who's no why")
_NO_NOT_BEFORE = _set(
    "not never no nothing none neither both all each either only always to just at in on by also still now nowhere "
    "little few hardly rarely seldom and or but that why how what where when because once often then"
)
_NOT_ONLY = _set("only just necessarily yet all every merely so to")
_WANTS_NOT = re.compile(
    r"\b(?:any|either|yet|nor|anymore|until|ever|at all|much|but|because|except|anyone|anything|let alone)\b"
)
_NEGATIVE = re.compile(
    r"\b(?:(?:is|are|was|were|has|have|had|can|will|would|should|must|does|did|do) (?:not|never|no longer)|cannot|can't"
    r"|(?:is|are|was|were|has|have|had|would|should|does|did|do)n['’]t)\b"
)


def _negations(line: str, rng: random.Random, pool: _Pool, source: _Source) -> Iterator[Change]:
    """A negation more or less."""
    for found in _NEGATIVE.finditer(line):
        following = _after(line, found.end())
        odd = _before(line, found.start()) == "what" or not following or following[0] in _NOT_ONLY
        if not odd and not _WANTS_NOT.search(line, found.end()):
            yield from _affirmed(line, found)
    tokens = _tokens(line) if source.deniable else ()
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        low, word = before.text.lower(), token.text
        if line[token.end : after.start] != " " or _NOT_DENIED.search(line[: token.start]):
            continue
        if word in _DENIABLE and low not in _NO_NOT_AFTER:
            yield from _denied(line, token, after, rng)
        elif word in _BASE and after.text.lower() not in _NO_NOT_BEFORE - _set("to at in on by"):
            named = _capital(before.text) and (before.start > 0 or low not in pool.lower | _FUNCTION)
            if line[before.end : token.start] == " " and (named or low in _set("he she it they who which")):
                yield ((token.start, token.end, f"did not {_BASE[word]}"),)
        elif word in _THIRD and low.isalpha() and low not in _CLASSES["own"] | _set("a an of and or to in"):
            yield ((token.start, token.end, f"does not {_THIRD[word]}"),)


def _denied(line: str, verb: _Token, after: _Token, rng: random.Random) -> Iterator[Change]:
    word, following = verb.text, after.text.lower()
    if following == "also" and word not in _HAVE:
        yield ((verb.start, after.end, f"{word} not"),)
    elif following == "still" and word in ("is", "are"):
        yield ((verb.start, after.end, f"{word} no longer"),)
    elif following in _NO_NOT_BEFORE or (_capital(after.text) and word in _HAVE):
        return
    elif word in _HAVE:
        if following in _DONE or (following.endswith("ed") and len(following) > 4):
            yield ((verb.start, verb.end, f"{word} {rng.choice(('not', 'not', 'never'))}"),)
    elif word == "can":
        yield ((verb.start, verb.end, "cannot"),)
    elif word == "must":
        yield ((verb.start, verb.end, rng.choice(("must not", "need not"))),)
    else:
        no_longer = word in ("is", "are") and rng.random() < 0.05
        yield ((verb.start, verb.end, f"{word} no longer" if no_longer else f"{word} not"),)


def _affirmed(line: str, found: re.Match[str]) -> Iterator[Change]:
    start, end, text = found.start(), found.end(), found[0]
    if text in ("cannot", "can't"):
        yield ((start, end, "can"),)
        return
    verb, _, rest = text.partition(" ") if " " in text else (text[:-3], " ", "not")
    if verb not in ("do", "does", "did"):
        yield ((start, end, f"{verb} still" if rest == "no longer" and verb in ("is", "are") else verb),)
        return
    after = re.compile(r" ([a-z]{2,20})\b").match(line, end)
    if after is None or after[1] in _set("so the a it"):
        return
    base = after[1]
    if verb == "do":
        new = base
    elif verb == "does":
        new = _third(base)
    else:
        new = _PAST.get(base, "")
    if new:
        yield ((start, after.end(), new),)


# ---- Edits, one kind each

Edits = Callable[[str, random.Random, _Pool, _Source], Iterator[Change]]


def _number_edits(line: str, rng: random.Random, pool: _Pool, source: _Source) -> Iterator[Change]:
    """Another number: half of the time one of the passages, half of the time one near."""
    for value in _numbers(line):
        if rng.random() < 0.5:
            others = _others(value, line, pool, lambda other: True)
        else:
            near = _perturbed(value, rng)
            others = [near] if near else []
        others = [new for new in others if _in_order(line, value.start, value.end, new)]
        if others:
            yield ((value.start, value.end, rng.choice(others)),)


def _name_edits(line: str, rng: random.Random, pool: _Pool, source: _Source) -> Iterator[Change]:
    """Another name of the passages."""
    for value in _names(line, pool.names):
        others = _others(value, line, pool, lambda other: True)
        if others:
            yield ((value.start, value.end, rng.choice(others)),)


def _mixed_edits(line: str, rng: random.Random, pool: _Pool, source: _Source) -> Iterator[Change]:
    """A number or name of another passage."""
    for value in (*_numbers(line), *_names(line, pool.names)):
        others = _others(value, line, pool, lambda other: other.passage != source.passage)
        others = [new for new in others if value.look[0] == "name" or _in_order(line, value.start, value.end, new)]
        if others:
            yield ((value.start, value.end, rng.choice(others)),)


def _others(value: _Value, line: str, pool: _Pool, fits: Callable[[_Source], bool]) -> list[str]:
    """Other values of one look in the passages, but of no sentence much like `line`: they might be true there."""
    words = frozenset(_words(line))
    found: dict[str, None] = {}
    for source in pool.sources:
        if not fits(source) or not any(other.look == value.look for other in source.values):
            continue
        if len(words & source.words) * 5 > len(words) * 3:
            continue
        for other in source.values:
            if other.look == value.look and not _alike(other.text, value.text) and other.text not in line:
                found[other.text] = None
    if value.look[0] in ("year", "decade"):
        return [new for new in found if abs(int(new.rstrip("s")) - int(value.text.rstrip("s"))) <= 60]
    return list(found)


def _alike(one: str, other: str) -> bool:
    """Whether two values may be the same: names that share a word, numbers with the same digits."""
    if one[:1].isdigit() and other[:1].isdigit():
        return one.replace(",", "").strip("0.") == other.replace(",", "").strip("0.")
    words, others = ({word.rstrip(".") for word in name.split()} - _LINKS - set(_SORT_OF) for name in (one, other))
    return not words.isdisjoint(others) or one in other or other in one


_MARKS = ',;:()"“”'
_SYMMETRIC = re.compile(
    r"\b(?:and|or|with|between|met|married|marrying|both|versus|vs|joined|than|like|alongside|as)\b"
)
_DIRECTED = _set(
    "by to from of before after over defeated beat replaced succeeded told asked sued bought acquired attacked"
)


def _role(name: _Value) -> tuple[object, ...]:
    """What names must share to be exchanged; () for those that may be anything."""
    _, sort, shape, near = name.look[:4]
    if sort in ("person", "thing") and shape == 2 and near not in (True, "the", "a", "an", *_PLACES):
        return ("person",)
    return () if sort == "thing" else (sort, shape, near)


def _role_edits(line: str, rng: random.Random, pool: _Pool, source: _Source) -> Iterator[Change]:
    """Two names of one sentence, exchanged."""
    if "between" in line or "both" in line:
        return
    for one, other in combinations(list(_names(line, pool.names))[:8], 2):
        between = line[one.end : other.start]
        words = between.split()
        route = between == " to " and line[: one.start].endswith("from ")
        told = 1 <= len(words) <= 9 and any(word in _DIRECTED or word.endswith("ed") for word in words)
        if not route and not (told and _role(one) and _role(one) == _role(other)):
            continue
        if not (_SYMMETRIC.search(between) or _alike(one.text, other.text) or any(mark in between for mark in _MARKS)):
            yield ((one.start, one.end, other.text), (other.start, other.end, one.text))


def _date_edits(line: str, rng: random.Random, pool: _Pool, source: _Source) -> Iterator[Change]:
    """Another day, month, year, weekday or season."""
    for found in (*_dates(line), *_MONTH_ALONE.finditer(line), *_WEEKDAY.finditer(line), *_SEASON.finditer(line)):
        parts = {name: text for name, text in found.groupdict().items() if text}
        name = rng.choice(list(parts))
        start, end = found.span(name)
        old = parts[name]
        if name.startswith("day"):
            new = str(rng.choice([day for day in range(1, 29) if day != int(old)]))
        elif name.startswith("month"):
            new = rng.choice([month for month in _MONTHS if month != old])
        elif name.startswith("year"):
            new = str(int(old) + rng.choice((1, 1, 2, 3, 4, 5, 10)) * rng.choice((-1, 1)))
        elif name == "weekday":
            new = rng.choice([day for day in _DAYS if day != old])
        else:
            new = rng.choice([season for season in ("spring", "summer", "autumn", "winter") if season != old])
        if _in_order(line, start, end, new):
            yield ((start, end, new),)


def _phrase_edits(kind: str) -> Edits:
    """Edits that put an opposite of the table of `kind` in the place of a phrase."""

    def edits(line: str, rng: random.Random, pool: _Pool, source: _Source) -> Iterator[Change]:
        for found in _PHRASES[kind].finditer(line):
            old = found[0].lower()
            if found[0] != old and (found.start() > 0 or found[0][1:] != old[1:]):
                continue  # part of a name
            before, following = _before(line, found.start()), _after(line, found.end())
            place = " ".join((before, old, *following))
            news = [new for new in _TABLES[kind][old] if _sound(old, new, before, following)]
            news = [new for new in news if _offered(old, new, pool.luck(f"{place} {new}", rng))]
            if news:
                yield ((found.start(), found.end(), rng.choice(news)),)
        if kind == "quantifier":
            yield from _pair_edits(line, rng, pool)

    return edits


_BOTH = re.compile(r"\b(?:(both) [^,;.:()]{3,40}? (and) |(neither) [^,;.:()]{3,40}? (nor) )")


def _pair_edits(line: str, rng: random.Random, pool: _Pool) -> Iterator[Change]:
    """A "neither ... nor" for a "both ... and", or back."""
    for found in _BOTH.finditer(line):
        one, two = (1, 2) if found[1] else (3, 4)
        news = ("neither", "nor") if found[1] else ("both", "and")
        simple = found[0].count(" ") <= 7 and " and " not in found[0][:-5] and " and " not in line[found.end() :]
        if simple and _offered(found[one], news[0], pool.luck(found[0], rng)):
            yield ((*found.span(one), news[0]), (*found.span(two), news[1]))


_EDITS: dict[str, Edits] = {
    "number": _number_edits,
    "date": _date_edits,
    "name": _name_edits,
    "roles": _role_edits,
    "negation": _negations,
    "quantifier": _phrase_edits("quantifier"),
    "trend": _phrase_edits("trend"),
    "order": _phrase_edits("order"),
    "mixed": _mixed_edits,
}
_KIND_WEIGHTS = {"negation": 3.0, "roles": 5.0, "quantifier": 2.0}
_RARE = re.compile(  # sentences with these are taken more often, so that edits go both ways
    r"\b(?:neither|none of|few|no|decreased|fell|lost|closed|without|below|least|less|fewer|rejected|forbidden|all|each"
    r"|every|only|before)\b"
)


# ---- Faithful answers


@dataclass(frozen=True)
class _Piece:
    """A sentence of a draft, at `[start, end)` of its text. carries: whether the next one leans on it."""

    start: int
    end: int
    source: _Source
    carries: bool


@dataclass(frozen=True)
class _Draft:
    text: str
    kind: str
    pieces: tuple[_Piece, ...]


_PREFACES = (  # those that end with a comma or a word go on in lower case
    "According to the passages, ", "According to the passage, ", "According to the text, ", "Based on the passages, ",
    "Based on the given text, ", "Based on the information provided, ", "From the passages, it follows that ",
    "The passages say that ", "The text says that ", "The passage states that ", "The documents state that ",
    "As the passages say, ", "As stated in the text, ", "In the passages, we read that ", "The source notes that ",
    "Per the documentation, ", "In short, ", "In brief, ", "To answer your question, ", "Yes, ", "Sure! ", "Sure: ",
    "Certainly! ", "Of course! ", "From what is given: ", "Here is what the text says: ", "Here is the answer: ",
    "Answer: ", "Here is what I found: ", "The passages tell us the following: ", "In summary: ", "Summary: ",
    "Good question! ", "Thanks for asking. ", "Here's what the documents say:\n", "Based on the context:\n\n",
    "The relevant facts are these:\n",
)  # fmt: skip
_LIST_PREFACES = (
    "Here is what the text says:\n", "From the passages:\n", "According to the passages:\n\n", "Key points:\n",
    "Sure!\n\n", "The passages say the following:\n\n", "Here are the main points:\n", "In summary:\n",
    "Based on the text:\n\n",
)  # fmt: skip
_OPENING = re.compile(
    r"(?:However|Moreover|Furthermore|Additionally|In addition|As a result|Meanwhile|Nevertheless|Nonetheless|Overall"
    r"|Also|Notably|Similarly|Later|Eventually|Finally|Subsequently|For example|For instance|In fact|Indeed|Currently"
    r"|Today|Initially|Originally|Ultimately|Unfortunately|Interestingly|In particular|At the time|By then), "
)
_WHEN = re.compile(rf"(?:In|On|By|During|Since|Around) (?:(?:\d{{1,2}} )?(?:{_MONTH}) )?(?:\d{{1,2}}, )?[12]\d{{3}}, ")
_BRACKETS = re.compile(r" \([^()]{1,200}\)")
_WHICH = re.compile(
    r",(?: as well as| including| which| who| whose| where| although| though| but| while)\b[^,;:()\"“”]{5,160}(?=\.\Z)"
)


def _shortened(line: str, rng: random.Random) -> str:
    """A sentence without some of what can be left out. What is left still follows from the sentence."""
    steps: list[Callable[[str], str]] = [
        lambda text: _BRACKETS.sub("", text),
        lambda text: _headless(text, _WHEN),
        lambda text: _without_end(text),
        lambda text: text.replace(", however, ", " ", 1),
        lambda text: re.sub(r"\b(is|was|are|were|has|have) also\b", r"\1", text, count=1),
    ]
    text = _headless(line, _OPENING)
    for step in rng.sample(steps, len(steps)):
        new = step(text)
        if new != text and rng.random() < 0.7 and len(new.split()) >= MIN_WORDS and new[-1:] in ".!":
            text = new
    return text


def _headless(text: str, head: re.Pattern[str]) -> str:
    """`text` without an adverbial at its beginning."""
    found = head.match(text)
    rest = text[found.end() :] if found else ""
    return rest[:1].upper() + rest[1:] if len(rest.split()) >= MIN_WORDS else text


def _without_end(text: str) -> str:
    """`text` without a last clause that adds to it and restricts nothing."""
    found = _WHICH.search(text)
    if found is None or len(text[: found.start()].split()) < MIN_WORDS + 1:
        return text
    head = text[: found.start()]
    if re.search(r"\b(?:not|if|when|unless|neither|either|between|both|such|only)\b", head) or head.count(",") > 1:
        return text
    return head + "."


def _draft(pool: _Pool, rng: random.Random) -> _Draft | None:
    """A faithful answer."""
    chains = _chains(pool, rng)
    if not chains:
        return None
    sources = [source for chain in chains for source in chain]
    carries = [i + 1 < len(chain) for chain in chains for i in range(len(chain))]
    shorten = rng.random() < 0.4
    lines = [_shortened(s.text, rng) if shorten else _headless(s.text, _OPENING) for s in sources]
    compressed = lines != [source.text for source in sources]
    if len(lines) > 1 and rng.random() < 0.25:
        kind, preface = "list", rng.choice(_LIST_PREFACES) if rng.random() < 0.5 else ""
        mark = rng.choice(("- ", "- ", "* ", "• "))
        links = [preface + mark] + ["\n" + mark] * (len(lines) - 1)
    else:
        links = [""] + [" "] * (len(lines) - 1)
        kind = "compressed" if compressed else "plain"
        if len(lines) > 1 and rng.random() < 0.5:
            at = rng.randrange(1, len(lines))
            lowered = _continued(lines[at], pool)
            short = len(lines[at - 1].split()) + len(lines[at].split()) <= MAX_WORDS
            if lowered is not None and short and lines[at - 1].endswith("."):
                kind, lines[at], lines[at - 1] = "joined", lowered, lines[at - 1][:-1]
                links[at] = rng.choice((", and ", "; "))
        if rng.random() < 0.3:
            links[0] = rng.choice(_PREFACES)
            if links[0].rstrip()[-1] not in ".!:":
                lowered = _continued(lines[0], pool)
                if lowered is None:
                    links[0] = ""
                else:
                    lines[0] = lowered
    text, pieces = "", []
    for link, line, source, carried in zip(links, lines, sources, carries, strict=True):
        text += link
        pieces.append(_Piece(len(text), len(text) + len(line), source, carried))
        text += line
    return _Draft(text, kind, tuple(pieces))


def _chains(pool: _Pool, rng: random.Random) -> list[list[_Source]]:
    """One to three sentences, each behind those it leans on; [] where the draw failed."""
    wanted = rng.choices((1, 2, 3), (5, 3, 2))[0]
    chains: list[list[_Source]] = []
    taken: set[int] = set()
    weights = [source.weight for source in pool.sources]
    for i in rng.choices(range(len(pool.sources)), weights, k=wanted * 3):
        chain: list[int] = []
        at: int | None = i
        while at is not None and len(chain) < 3:
            chain.append(at)
            at = pool.sources[at].before if pool.sources[at].leans else None
        free = wanted - len(taken) if chains else 3
        if pool.sources[chain[-1]].leans or not taken.isdisjoint(chain) or len(chain) > free:
            continue
        taken.update(chain)
        chains.append([pool.sources[k] for k in reversed(chain)])
        if len(taken) >= wanted:
            break
    return chains


def _continued(line: str, pool: _Pool) -> str | None:
    """A sentence as it goes on behind a comma: without its capital, unless a name has it; None where it is unclear."""
    tokens = _tokens(line)
    if not tokens or tokens[0].start > 0 or tokens[0].text.capitalize() in (*_MONTHS, *_DAYS) or tokens[0].text == "I":
        return None
    if _common(tokens, pool.lower):
        return line[0].lower() + line[1:]
    run = next((run for start, _, run, _ in _runs(line, frozenset()) if start == 0), "")
    return line if run in pool.names or not line[0].isupper() else None


# ---- Unfaithful answers


def _mistaken(draft: _Draft, pool: _Pool, rng: random.Random) -> tuple[_Piece, Made] | None:
    """The draft with one edit, of a kind drawn among those that are possible, and the sentence that has it."""
    kinds = list(UNFAITHFUL)
    while kinds:
        kind = rng.choices(kinds, [_KIND_WEIGHTS.get(kind, 1.0) for kind in kinds])[0]
        kinds.remove(kind)
        for piece in rng.sample(draft.pieces, len(draft.pieces)):
            if piece.carries and kind in ("name", "roles", "mixed"):
                continue  # what leans on the sentence would be wrong too
            line = draft.text[piece.start : piece.end]
            found = list(_EDITS[kind](line, rng, pool, piece.source))
            for change in rng.sample(found, len(found)):
                agreed = _agreed(line, change)
                if agreed is not None and _new(_applied(line, agreed)[0], pool):
                    return piece, _made(draft, piece, kind, agreed)
    return None


def _made(draft: _Draft, piece: _Piece, kind: str, change: Change) -> Made:
    line, spans = _applied(draft.text[piece.start : piece.end], change)
    text = draft.text[: piece.start] + line + draft.text[piece.end :]
    return Made(text, kind, 1, tuple((piece.start + start, piece.start + end) for start, end in spans))


def _applied(line: str, change: Change) -> tuple[str, list[tuple[int, int]]]:
    """A sentence with an edit, and where it changed."""
    text, at, spans = "", 0, []
    for start, end, new in change:
        text += line[at:start]
        new = _cased(line[start:end], new)
        spans.append((len(text), len(text) + len(new)))
        text, at = text + new, end
    return text + line[at:], spans


def _agreed(line: str, change: Change) -> Change | None:
    """The edit with "a" or "an" before it put right, too; None where the sentence's own article is a riddle."""
    found = []
    for start, end, new in change:
        article = re.compile(r"\b(an?) \Z", re.IGNORECASE).search(line[max(0, start - 4) : start])
        if article:
            is_an = len(article[1]) == 2
            if _takes_an(line[start:end]) != is_an:
                return None
            if _takes_an(new) != is_an:
                start -= len(article[0])
                new = f"{'a' if is_an else 'an'} {new}"
        found.append((start, end, new))
    return tuple(found)


def _new(line: str, pool: _Pool) -> bool:
    """Whether the passages do not hold the edited sentence."""
    return _normal(line).rstrip(".!") not in pool.written
