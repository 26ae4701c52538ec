"""What a user's words ask for: an answer from a text, a text of one's own, or nothing. English wordings, no model."""

from __future__ import annotations

import re

NOUN = (
    r"(?:contexts?|passages?|documents?|docs?|sources?|excerpts?|snippets?|chunks?|paragraphs?|articles?|texts?"
    r"|contents?|references?|evidence|search results|transcripts?|reports?|abstract|papers?|news|information"
    r"|structured data|knowledge base|knowledge|facts|notes|pages?|reviews?|story|conversation|email)"
)
MARK = r"^[ \t]*(?:#{1,6}[ \t]+|\*\*|>[ \t]*)?"  # what may stand before a label or a heading
ASK_LABEL = re.compile(
    rf"{MARK}[%\[]?(?:(?:user|user's|my|the|original|follow[- ]?up|input|final)[ \t]+)?(?:question|query|q)"
    r"[%\]]?\*{0,2}[ \t]*(?::|$)",
    re.IGNORECASE | re.MULTILINE,
)
END_LABEL = re.compile(
    rf"{MARK}(?:(?:your|the|final|helpful|refined|new|original|concise)[ \t]+)?(?:answer|instructions?|task|output"
    rf"|summary|response|overview|rules|guidelines)\*{{0,2}}[ \t]*:|^(?:in case|if) (?:the|these) {NOUN}\b"
    r"|^[ \t]*(?:\[/|[=#*-]{2,8} ?end\b)",
    re.IGNORECASE | re.MULTILINE,
)
_WHICH = (
    r"(?:(?:the|these|this|those|any|only|solely|following|above|below|provided|given|retrieved|supplied|relevant|new"
    r"|two|three|four|five|six|ten|\d{1,2}|pieces? of|parts? of|extracted|long|additional|numbered|news|text) ){1,7}"
)
_GROUNDED = re.compile(
    rf"\b(?:using|use|based (?:(?:only|solely|strictly) )?(?:up)?on|given|from|according to|refer to"
    rf"|rely(?:ing)?(?: only| solely)? on|drawing on|in|with) {_WHICH}{NOUN}\b(?! of\b)"
    rf"|\bfollowing (?:\w+ )?(?:pieces of )?(?:retrieved )?{NOUN}\b|\b{NOUN} (?:is |are )?(?:given |provided )?below\b",
    re.IGNORECASE,
)
_SUMMARY = re.compile(
    r"\b(?:summari[sz](?:e|ing)|summary|tl;?dr|key points|main points|gist|takeaways)\b", re.IGNORECASE
)
_QUESTION = re.compile(
    r"[?？]|\b(?:answer|explain|describe|list|extract|find|tell|who|what|when|where|which|why|how)\b", re.IGNORECASE
)
_ELSEWHERE = re.compile(
    r"\b(?:python|javascript|typescript|java|rust|golang|sql|regex|bash|html|css|xml|yaml|code|coding|program|function"
    r"|script|compil\w+|debug\w*|stack ?trace|traceback|exception|refactor\w*|unit tests?|parse[rs]?|translat\w+"
    r"|rewrite|rephrase|reword|paraphrase|proofread|grammar|spelling|improve|polish|continue|classify|sentiment|poem|haiku"
    r"|essay|lyrics|joke|blog|tweet)\b|\bc\+\+"
    r"|(?:^|[.!?,\n]|\bplease|\byou|\bto|\bme)[ \t]*(?:write|draft|compose|edit|invent|brainstorm)\b"
    r"|\b(?:reply|respond) to (?:this|the|my) (?:email|message|mail|letter|comment|review)\b",
    re.IGNORECASE,
)
_POINTS_BACK = re.compile(
    r"\b(?:it|its|he|she|his|her|him|they|them|their|this|these|those|above|author|more|else|further|again|shorter|simpler"
    rf"|yes|{NOUN})\b|\bwhy\b\W*$",
    re.IGNORECASE,
)
_KIND = (
    r"(?:(?:great|good|nice|cool|awesome|perfect|excellent|wonderful|lovely|amazing|brilliant|helpful|fine|clear)\b)"
)
_COURTESY = re.compile(
    r"(?:\b(?:hi|hello|hey|hiya|yo)(?: there| everyone| all| again)?\b"
    r"|\b(?:many )?(?:thanks|thank you|thx|cheers)(?: so much| very much| a lot| again)?\b|\bthank u\b"
    r"|\bfor (?:your|the|all the) (?:help|answers?|info|information)\b"
    r"|\b(?:ok|okay|got it|i see|lol|haha|wow|welcome|well done|nice to meet you)\b"
    rf"|\b(?:that|this|it)(?:'s| is| was) (?:very |really |so |super )?{_KIND}|\b(?:very |really |so )?{_KIND}"
    r"|\bgood (?:morning|afternoon|evening|night|day)\b|\bhow (?:are you|is it going)(?: doing)?(?: today)?\b"
    r"|\bhow's it going\b|\bwhat's up\b|\bhave a (?:good|nice|great) (?:day|one|evening)\b"
    r"|\b(?:good)?bye\b|\bsee you(?: later| soon)?\b|\W)*"
)
_SPOKEN = re.compile(  # what a user says of themselves, or to a model
    r"(?:^[ \t]*|[.!?] )(?:I|I['’](?:m|ve|d)|My|We(?:['’](?:re|ve))? have|We use|Act as|Imagine|Pretend"
    r"|You(?:['’]re| are) (?:an?|in|the|now|playing)|Your (?:task|role|name|goal|job) is)\b",
    re.IGNORECASE | re.MULTILINE,
)
_OPINION = re.compile(r"\b(?:should (?:i|we)|(?:do|would) you|your (?:opinion|thoughts|view|advice))\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?。！？](?=\s|[\"”')]|$)")
_WORD = re.compile(r"\w{4,}")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "about after again also answer because been before being below best between both could describe does doing down"
        " each explain find from give good have having help here into just know like list long made make many more most"
        " much must need only other over please same should some such take tell than that their them then there these"
        " they thing this those through under using very want well were what when where which while will with work"
        " would write your",
    )
)


def grounded(text: str) -> bool:
    """Whether a text says to answer from material it holds: "using only the passages below"."""
    return bool(_GROUNDED.search(text))


def summary(text: str) -> bool:
    return bool(_SUMMARY.search(text))


def question(text: str) -> bool:
    """Whether anything is asked: a question mark or word, the label of a question, a summary."""
    return bool(_QUESTION.search(text) or ASK_LABEL.search(text)) or summary(text)


def elsewhere(text: str) -> bool:
    """Whether a request is for code, a translation or a text of one's own: its answer claims nothing about a text."""
    return bool(_ELSEWHERE.search(text)) and not summary(text)


def refers(text: str, material: str) -> bool:
    """Whether a question may be about `material`: it points back ("how high is it?") or shares a word with it."""
    return bool(_POINTS_BACK.search(text)) or not _content_words(text).isdisjoint(_content_words(material))


def courtesy(text: str) -> bool:
    """Whether a text only greets, thanks or takes leave."""
    return len(text) < 200 and bool(_COURTESY.fullmatch(text.lower().replace("’", "'")))


def opinion(text: str) -> bool:
    """Whether a question is for advice or an opinion, which no text answers."""
    return bool(_OPINION.search(text))


def spoken(material: str) -> bool:
    """Whether more than one sentence in five of `material` is about the user, or tells the model what to be."""
    return 5 * sum(1 for _ in _SPOKEN.finditer(material)) > max(1, sentence_ends(material))


def sentence_ends(text: str) -> int:
    return sum(1 for _ in _SENTENCE_END.finditer(text))


def question_in(text: str) -> str:
    """What stands behind the last `Question:` of a text, up to `Answer:`; all of it where there is no such label."""
    labels = list(ASK_LABEL.finditer(text))
    if not labels:
        return text
    rest = text[labels[-1].end() :]
    end = END_LABEL.search(rest)
    return rest[: end.start()] if end else rest


def _content_words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.lower()) if word not in _COMMON}
