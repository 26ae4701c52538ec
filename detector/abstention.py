"""Does an answer only say that the passages do not say? Such an answer claims nothing, so there is nothing to check.

English only: an abstention in another language is scored like any answer. The rule is built to miss rather than to
excuse: every clause of the answer must be an abstention or a courtesy in a known wording, and one that could carry a
claim (a "but", a relative clause, "mention that ...", a parenthesis) makes it an answer like any other. Whether the
passages do answer the question after all is not looked at: a wrong abstention is unhelpful, not unfaithful.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 400  # longer answers say more than that they cannot say; also bounds the time of every pattern


def _any(*patterns: str) -> str:
    return f"(?:{'|'.join(patterns)})"


_SOURCE = (
    r"(?:(?:(?:the|these|those|this) )?(?:(?:given|provided|available|retrieved) )?"
    r"(?:passages?|contexts?|contents?|texts?|paragraphs?|articles?|documents?|sources?|excerpts?|snippets?)"
    r"(?: (?:provided|given|above|alone))?"
    r"|(?:the )?(?:(?:given|provided|available) information|information (?:provided|given|available)))"
)
# Written as § before clauses are looked at: "in the passages", "based on the given context"
_IN_SOURCE = re.compile(
    rf"\b(?:based (?:solely |only )?(?:up)?on|according to|given(?= the)|from|in|by|within) {_SOURCE}(?![\w'])"
)
_CLAUSE_END = re.compile(
    r"[.!?;:,()\[\]\"“”*\n—–]+| - "
    r"|\b(?:because|since|as|and|but)\b(?= (?:the|there|it|this|these|that|they|he|she|we|i|you|none)\b)"
)
_CONNECTIVE = re.compile(r"^(?:(?:and|but|so|therefore|thus|hence|because|since|unfortunately|however|as a result) )+")
_VERB = r"(?:is|are|was|were|be|been|has|have|had|will|would|can|could|may|might|did|does)"
# What can carry a claim beyond what is missing.
_CLAIM = re.compile(
    r"\b(?:but|although|though|while|whereas|except|instead|other than|apart from|only|just|merely"
    r"|which|that(?!$| request| question)|until|unless|despite|yet|because|since|otherwise|so)\b"
    rf"|\b(?:and|or|as)\b.*\b{_VERB}\b"
)

_ADVERB = r"(?:(?:explicitly|specifically|directly|clearly) )?"
_KNOWLEDGE = (
    r"(?:(?:any|enough|sufficient|the|an?|specific|direct|explicit|clear|relevant|necessary|definitive|further"
    r"|additional|more|detailed|exact) )*"
    r"(?:information|details?|mention|answers?|data|instructions|explanations?|references?)\b"
)
# "I cannot provide refunds" and "I cannot confirm your booking" are claims, hence the objects.
_REPLY = (
    rf"(?:(?:answer|determine|say|tell)\b.*|(?:provide|find|give|offer)(?: you(?: with)?)? {_KNOWLEDGE}.*"
    r"|(?:help|assist)(?: you)? with (?:that|this)(?: request)?|(?:fulfill?|comply with) (?:this|that|your) request)"
)
_PARTICIPLE = (
    r"(?:mentioned|stated|specified|provided|given|discussed|described|disclosed|addressed|determined|answered)"
)
# The answerer, or the passages, as the subject.
_ABSTENTION = re.compile(
    _any(
        rf"(?:§ )?(?:(?:i am|i'm) )?(?:unable|not able) to {_REPLY}",
        r"(?:§ )?it is unable to (?:answer|determine)\b.*",
        rf"(?:§ )?i (?:can ?not|can't|could not|couldn't) {_REPLY}",
        rf"i (?:do not|don't) (?:know\b.*|have {_KNOWLEDGE}.*)",
        rf"{_SOURCE} (?:(?:do|does|did) not|(?:do|does|did)n't) {_ADVERB}"
        rf"(?:(?:mention|state|specify|say|indicate|discuss|explain|describe|tell|reveal|clarify)\b.*"
        rf"|(?:contain|provide|include|give|offer|have) {_KNOWLEDGE}.*|(?:answer|address) (?:the|this|your) question)",
        rf"(?:none|neither) of {_SOURCE} {_ADVERB}(?:mentions?|states?|say|says|specify|specifies)\b.*",
    )
)
# No such subject: only with § in the clause, for "breakfast is not included" is a claim.
_IMPERSONAL = re.compile(
    _any(
        rf"(?:§ )?there is (?:no|not) {_KNOWLEDGE}.*",
        rf"(?:§ )?no {_KNOWLEDGE}.* (?:is|are) {_PARTICIPLE} §",
        r"(?:§ )?it is (?:unclear|unknown|not clear|not known)(?: §)? (?:whether|if|who|what|when|where|how|why)\b.*",
        r"(?:§ )?it is not possible to (?:answer|determine|say|tell)\b.*",
        # a subject with a verb of its own would be a statement, so it may hold none
        rf"(?:§ )?(?:(?!{_VERB}\b)[^ §]+ ){{1,20}}(?:(?:is|are|was|were) not|isn't|aren't|can(?:not|'t| not) be)"
        rf" {_ADVERB}{_PARTICIPLE}(?: §)?",
    )
)
_MORE = r"(?:(?:any|more|further|other|additional) )*"
_COURTESY = re.compile(
    _any(
        r"sure|of course|hello|thank you|thanks|unfortunately|§|",
        r"(?:(?:i'm|i am|we're|we are) )?(?:very |so )?sorry(?: for (?:the|any) (?:inconvenience|confusion))?",
        r"my apologies|(?:i|we) apologi[sz]e(?: for (?:the|any) (?:inconvenience|confusion))?",
        r"(?:i'd|i would) be happy to help|here(?:'s| is) my answer|(?:§ )?(?:the|my) answer is",
        r"as an ai(?: language)?(?: model| assistant)?",
        rf"(?:please )?let me know(?: if you (?:have|need) {_MORE}(?:questions?|information|help|details|assistance))?",
        rf"(?:please|could you) (?:provide|share) {_MORE}(?:passages?|context|information|details)",
        r"is there anything else i can help(?: you)?(?: with)?",
    )
)


def abstained(response: str) -> bool:
    """Whether `response` says that the passages do not answer, or refuses, and claims nothing else.

    True needs at least one clause of that kind and none of another. Empty answers, and those longer than 400
    characters, are never abstentions.
    """
    text = response.strip()
    if len(text) > MAX_CHARACTERS:
        return False
    text = _IN_SOURCE.sub("§", text.lower().replace("’", "'").replace("§", " "))
    clauses = [" ".join(clause.split()) for clause in _CLAUSE_END.split(text.replace("§,", "§"))]
    spoken = [clause for clause in clauses if not _COURTESY.fullmatch(clause)]
    return bool(spoken) and all(_abstains(clause) for clause in spoken)


def _abstains(clause: str) -> bool:
    """Of one lower-case clause with single spaces, in which § stands for "in the passages"."""
    clause = _CONNECTIVE.sub("", clause)
    if _CLAIM.search(clause):
        return False
    return bool(_ABSTENTION.fullmatch(clause) or ("§" in clause and _IMPERSONAL.fullmatch(clause)))
