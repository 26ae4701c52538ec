"""What an answer must stay with: the passages of a conversation, or the reason why nothing is checked.

In this order; the first that yields any decides:

1. **the request names them** (`hallucination.passages`). An empty list says that there are none. Those that do not
   stand word for word in the messages are put before the last user message, in the wording of `grounded_messages`, so
   that the model sees them; those that do stand there are only evidence;
2. **results of tools** since the last user message;
3. **the last user message**, by the rule of `pasted`;
4. **a system message** that announces passages (LangChain's retrieval chain), by `announced`;
5. **an earlier turn**: the latest one with results of tools or passages in the user's text, while the conversation is
   still about it: the last user message points back or shares a word with it ("how high is it?").

2 needs nothing of the user's words; 3 to 5 find nothing where those only greet or thank, 5 nothing where they ask for
code, a translation or a text of one's own. Else the reason is "no_passages": small talk and plain questions have
nothing to stay with, so they get no score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groundwire.asking import courtesy, elsewhere, question_in, refers
from groundwire.pasted import announced, pasted
from groundwire.prompts import grounded_messages
from groundwire.types import Message, Passage, Reason

TOOL = ("tool", "function")
SYSTEM = ("system", "developer")


@dataclass(frozen=True)
class Found:
    """Passages, or the reason for none; and the messages to answer, with the passages that were not yet in them."""

    passages: tuple[Passage, ...]
    reason: Reason | None
    messages: tuple[Message, ...]


def found_passages(messages: Sequence[Mapping[str, Any]], given: Sequence[Passage] | None = None) -> Found:
    """The passages an answer to `messages` must stay with, in the order above.

    given: the request's own; None where it names none, empty where it says that there are none. Blank ones are left
    out. A content that is not a string (the empty one of a tool call) counts as empty.
    """
    plain = tuple(Message(role=str(message.get("role", "")), content=_content(message)) for message in messages)
    if given is not None:
        passages = tuple(passage for passage in given if passage.text.strip())
        plain = _with(plain, passages)
    else:
        passages = _in_conversation(messages)
    return Found(passages, None if passages else "no_passages", plain)


def _in_conversation(messages: Sequence[Mapping[str, Any]]) -> tuple[Passage, ...]:
    users = [i for i, message in enumerate(messages) if message.get("role") == "user"]
    last = users[-1] if users else -1
    if results := _results(messages[last + 1 :]):
        return results
    asked = _content(messages[last]) if users else ""
    said = question_in(asked)
    if courtesy(said):
        return ()
    return pasted(asked) or _announced(messages, asked) or _earlier(messages, users, said)


def _results(messages: Sequence[Mapping[str, Any]]) -> tuple[Passage, ...]:
    """Each result of a tool as a passage, with the id of its call."""
    found = []
    for message in messages:
        if message.get("role") in TOOL and (text := _content(message)).strip():
            own = message.get("tool_call_id")
            found.append(Passage(text, own if isinstance(own, str) else None))
    return tuple(found)


def _announced(messages: Sequence[Mapping[str, Any]], asked: str) -> tuple[Passage, ...]:
    found: list[Passage] = []
    for message in messages:
        if message.get("role") in SYSTEM:
            found += announced(_content(message), asked)
    return tuple(found)


def _earlier(messages: Sequence[Mapping[str, Any]], users: Sequence[int], said: str) -> tuple[Passage, ...]:
    """Of the latest turn before the last user message that has any, where `said` is still about that turn."""
    if elsewhere(said):
        return ()
    for start, end in zip(reversed(users[:-1]), reversed(users[1:]), strict=True):
        turn = messages[start:end]
        asked = _content(turn[0])
        if found := _results(turn[1:]) or pasted(asked, said):
            return found if refers(said, "\n".join([asked, *(passage.text for passage in found)])) else ()
    return ()


def _with(messages: tuple[Message, ...], passages: Sequence[Passage]) -> tuple[Message, ...]:
    """`messages` with the passages that stand in none of them put before the last of the user."""
    # One text, as there may be thousands of both; between its parts what no passage holds, half a surrogate pair.
    said = "\ud800".join(message["content"] for message in messages)
    missing = [p for p in passages if p.text.strip() not in said]
    if not missing:
        return messages
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    last = users[-1] if users else len(messages)  # without a user's message they become one
    asked = messages[last]["content"] if users else ""
    return (*messages[:last], *grounded_messages(asked, missing), *messages[last + 1 :])


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""
