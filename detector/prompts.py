"""Passages and a question become messages, messages become token ids. The one place that renders a prompt.

Prompt and response are tokenised apart, so a replay sees the prompt's ids exactly as generation saw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from groundwire.errors import InputError
from groundwire.types import Message, Passage, Token

# For models without a chat template: roles spelt out, one blank line between turns.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


@dataclass(frozen=True)
class Rendered:
    """A prompt as the model reads it.

    ids: its tokens. text: what they spell. offsets: the code points `[start, end)` of `text` each token covers.
    contents: where the messages' contents stand in `text`, without the system's and the assistant's. Two prompts are
    equal where `ids` and `contents` are.
    """

    ids: tuple[int, ...]
    text: str = field(compare=False)
    offsets: tuple[tuple[int, int], ...] = field(compare=False)
    contents: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.ids)


def grounded_messages(question: str, passages: Sequence[Passage]) -> list[Message]:
    """One user message that holds the passages, then the question. The wording is part of what detectors see."""
    numbered = "\n\n".join(f"Passage {i}: {p.text.strip()}" for i, p in enumerate(passages, 1))
    content = (
        "Answer the question using only the passages below. "
        "If they do not contain the answer, say that the passages do not say.\n\n"
        f"{numbered}\n\nQuestion: {question.strip()}"
    )
    return [{"role": "user", "content": content}]


def render(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of `messages` with the generation prompt, by the tokenizer's own chat template.

    A template that adds a system message of its own (SmolLM2's does) keeps it. Raises InputError on a message
    without a role and a string content, or where the template refuses the messages.
    """
    return tokenizer(_spelt(tokenizer, messages), add_special_tokens=not tokenizer.chat_template)["input_ids"]


def rendered(tokenizer: Any, messages: Sequence[Message]) -> Rendered:
    """`render`, with the text and where in it everything stands. Raises InputError as `render` does."""
    text = _spelt(tokenizer, messages)
    encoded = tokenizer(text, add_special_tokens=not tokenizer.chat_template, return_offsets_mapping=True)
    contents, at = [], 0
    for message in messages:
        content = message["content"].strip()  # many templates strip it
        start = text.find(content, at)
        if content and start >= 0:
            at = start + len(content)
            if message["role"] not in ("system", "assistant"):
                contents.append((start, at))
    return Rendered(tuple(encoded["input_ids"]), text, tuple(encoded["offset_mapping"]), tuple(contents))


def _spelt(tokenizer: Any, messages: Sequence[Message]) -> str:
    _check(messages)
    template = None if tokenizer.chat_template else PLAIN_TEMPLATE
    try:
        return tokenizer.apply_chat_template(
            list(messages), chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # jinja2.TemplateError and what templates raise themselves
        raise InputError(
            f"the chat template refused the messages: {error}",
            expected="roles in the order the model was trained on",
            remedy="merge or reorder the messages",
        ) from error


def prompt_text(messages: Sequence[Message]) -> str:
    """The messages' contents, joined by blank lines: what an answer's words are compared with.

    Raises InputError on a message without a role and a string content, and on no message.
    """
    _check(messages)
    return "\n\n".join(message["content"] for message in messages)


def tokenize_response(tokenizer: Any, response: str) -> list[Token]:
    """Tokens of a response given as text, with the code points they cover. No special tokens are added, and what is
    spelt like one in the text (`<|im_end|>`) is text.

    Parts of one character that was split over several tokens all cover that character. White space that a tokenizer
    leaves out of its offsets (Llama 3's does) belongs to the token after it, as in a generated answer.
    """
    if not response:
        return []
    encoded = tokenizer(response, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    tokens, covered = [], 0
    for token_id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        tokens.append(Token(token_id, min(start, covered), end))
        covered = max(covered, end)
    return tokens


def _check(messages: Sequence[Message]) -> None:
    for i, message in enumerate(messages):
        if not isinstance(message.get("content"), str) or not isinstance(message.get("role"), str):
            raise InputError(
                f"message {i} is {message!r:.80}",
                expected='{"role": "user", "content": "text"}',
                remedy="give every message a role and its content as one string",
            )
    if not messages:
        raise InputError("no messages", expected="at least one message", remedy="pass the prompt as a user message")
