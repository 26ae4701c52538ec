"""Rendering prompts and tokenising responses, with and without a chat template."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoTokenizer

from groundwire.engines.decoding import TextStream
from groundwire.errors import InputError
from groundwire.prompts import grounded_messages, render, tokenize_response
from groundwire.types import Message, Passage

MESSAGES: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who built it?"}]


@pytest.fixture(scope="module")
def chat(tiny_llama_folder) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama_folder)


@pytest.fixture(scope="module")
def plain(tiny_gpt2_folder) -> Any:
    return AutoTokenizer.from_pretrained(tiny_gpt2_folder)


@pytest.fixture(scope="module")
def trimming(tiny_gpt2_folder) -> Any:
    """A tokenizer that leaves white space out of its offsets, as Llama 3's."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2_folder)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def test_passages_are_numbered_and_come_before_the_question():
    (message,) = grounded_messages(" Who built it?\n", [Passage("A. \n", id="x"), Passage("B.")])
    assert message["role"] == "user"
    assert message["content"].endswith("\n\nPassage 1: A.\n\nPassage 2: B.\n\nQuestion: Who built it?")
    assert "only the passages below" in message["content"]


def test_a_chat_template_is_used_as_it_is(chat):
    assert chat.decode(render(chat, MESSAGES)) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho built it?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_templates_marks_are_single_tokens(chat):
    ids = render(chat, MESSAGES)
    assert ids.count(chat.convert_tokens_to_ids("<|im_start|>")) == 3
    assert ids.count(chat.bos_token_id) == 0  # this template writes none


def test_without_a_template_roles_are_spelt_out(plain):
    assert plain.decode(render(plain, MESSAGES)) == "System: Be brief.\n\nUser: Who built it?\n\nAssistant: "


def test_a_tokenizer_without_a_template_adds_its_own_beginning(plain, tiny_gpt2_folder):
    with_bos = AutoTokenizer.from_pretrained(tiny_gpt2_folder)
    with_bos.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", with_bos.bos_token_id)]
    )
    assert render(with_bos, MESSAGES) == [with_bos.bos_token_id, *render(plain, MESSAGES)]
    assert tokenize_response(with_bos, "In 1889.") == tokenize_response(plain, "In 1889.")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user"}],
        [{"content": "hi"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        [{"role": 1, "content": "hi"}],
    ],
)
def test_messages_without_role_and_text_are_refused(chat, messages):
    with pytest.raises(InputError, match=r"message 1 is .*\n  Expected: .*\n  To fix: "):
        render(chat, [MESSAGES[0], *messages])


def test_no_messages_are_refused(chat):
    with pytest.raises(InputError, match="at least one message"):
        render(chat, [])


def test_what_a_template_refuses_is_an_input_error_with_its_reason(tiny_llama_folder):
    strict = AutoTokenizer.from_pretrained(tiny_llama_folder)
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="roles must alternate"):
        render(strict, MESSAGES)


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("ab 1\n东🏴", max_size=40))
def test_tokens_cover_the_response(chat, plain, trimming, text):
    for tokenizer in (chat, plain, trimming):
        text = text.lstrip() if tokenizer is trimming else text  # white space in front of all has no token to go to
        tokens = tokenize_response(tokenizer, text)
        assert tokenizer.decode([t.id for t in tokens], skip_special_tokens=False) == text
        assert sorted({i for t in tokens for i in range(t.start, t.end)}) == list(range(len(text)))
        assert all(before.end <= after.end for before, after in pairwise(tokens))


@settings(deadline=None)
@given(st.text("ab 1\n.", max_size=40) | st.just("It was built  in 1889 \n\n by  a builder"))
def test_a_response_has_the_offsets_it_had_when_it_was_generated(chat, trimming, text):
    for tokenizer in (chat, trimming):
        text = text.lstrip() if tokenizer is trimming else text
        tokens = tokenize_response(tokenizer, text)
        stream = TextStream(tokenizer)
        assert [t for token in tokens for t in stream.push(token.id)[1]] == tokens


def test_the_parts_of_a_character_cover_it(chat):
    assert [(t.start, t.end) for t in tokenize_response(chat, "a🏴")] == [(0, 1), *[(1, 2)] * 4]


def test_an_empty_response_has_no_tokens(chat):
    assert tokenize_response(chat, "") == []


def test_text_that_is_spelt_like_a_special_token_is_text(tiny_llama_folder: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_folder)
    special = tokenizer("<|im_end|>", add_special_tokens=False)["input_ids"]
    tokens = tokenize_response(tokenizer, "a <|im_end|> b")
    assert not set(special) & {token.id for token in tokens}
    assert tokens[-1].end == len("a <|im_end|> b")
