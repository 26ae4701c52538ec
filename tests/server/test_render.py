from __future__ import annotations

import json
from typing import Any

import pytest

from groundwire.guard import decide
from groundwire.server.events import Attempt, Begun, Delta, Done, Piece, Usage
from groundwire.server.render import ChatRenderer, Renderer, Show, TextRenderer, field, headers, sse
from groundwire.types import Detection, Span, Token, TokenLogprob

CHECKED = Detection("checked", score=0.9, spans=(Span(3, 8, "Tokyo", 0.8),))
PIECE = Piece(Token(7, 0, 2), "In", TokenLogprob(-0.25))
DONE = Done(0, "In Tokyo", "stop", decide(CHECKED, 0.5), "In Tokyo", (PIECE,), prompt_tokens=5, completion_tokens=2)
ENVELOPE = {"id": "x-1", "created": 9, "model": "m", "system_fingerprint": "fp_1"}


def renderer(kind: type[Renderer], **show: Any) -> Any:
    return kind("x-1", "m", 9, "fp_1", Show(**show), str)


def test_a_whole_chat_completion():
    whole = renderer(ChatRenderer).whole([DONE], Usage(5, 2))
    (choice,) = whole.pop("choices")
    assert whole == ENVELOPE | {
        "object": "chat.completion",
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
    assert choice["message"] == {"role": "assistant", "content": "In Tokyo", "refusal": None}
    assert choice["hallucination"]["score"] == 0.9
    assert choice["logprobs"]["content"][0]["token"] == "In"
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")


def test_a_whole_text_completion():
    whole = renderer(TextRenderer).whole([DONE], Usage(5, 2))
    (choice,) = whole["choices"]
    assert whole["object"] == "text_completion"
    assert choice["text"] == "In Tokyo"
    assert choice["logprobs"]["tokens"] == ["In"]
    assert choice["hallucination"] == field(DONE, Show())


def test_chunks_of_a_chat():
    chat = renderer(ChatRenderer)
    (begun,) = chat.chunks(Begun(1))
    assert begun == ENVELOPE | {
        "object": "chat.completion.chunk",
        "choices": [
            {
                "index": 1,
                "delta": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
        ],
    }
    (delta,) = chat.chunks(Delta(1, "In", (PIECE,), 0.7))
    assert delta["choices"][0]["delta"] == {"content": "In"}
    assert delta["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.25
    assert "hallucination" not in delta["choices"][0]
    (done,) = chat.chunks(DONE)
    assert done["choices"][0]["delta"] == {}
    assert done["choices"][0]["finish_reason"] == "stop"
    assert done["choices"][0]["hallucination"]["flagged"] is True


def test_chunks_of_a_text_completion():
    text = renderer(TextRenderer)
    assert text.chunks(Begun(0)) == []
    (delta,) = text.chunks(Delta(0, "In", (PIECE,)))
    assert delta["choices"][0] | {"logprobs": None} == {
        "index": 0,
        "text": "In",
        "logprobs": None,
        "finish_reason": None,
    }
    (done,) = text.chunks(DONE)
    assert done["choices"][0]["hallucination"]["score"] == 0.9
    assert done["choices"][0]["text"] == ""


@pytest.mark.parametrize("kind", [ChatRenderer, TextRenderer])
def test_the_running_score_rides_on_content_chunks_when_asked_for(kind):
    (chunk,) = renderer(kind, running=True).chunks(Delta(0, "In", running=0.7))
    assert chunk["choices"][0]["hallucination"] == {"status": "running", "score": 0.7}
    (chunk,) = renderer(kind, running=True).chunks(Delta(0, "In"))
    assert "hallucination" not in chunk["choices"][0]


def test_the_mirror_repeats_the_field_where_litellm_keeps_it():
    chat, mirrored = renderer(ChatRenderer, mirror=True, running=True), {"hallucination": field(DONE, Show())}
    assert chat.whole([DONE], Usage(1, 1))["choices"][0]["message"]["provider_specific_fields"] == mirrored
    assert chat.chunks(DONE)[0]["choices"][0]["delta"]["provider_specific_fields"] == mirrored
    (delta,) = chat.chunks(Delta(0, "In", running=0.7))
    running = delta["choices"][0]["delta"]["provider_specific_fields"]
    assert running == {"hallucination": {"status": "running", "score": 0.7}}
    assert "provider_specific_fields" not in chat.chunks(Delta(0, "In"))[0]["choices"][0]["delta"]


@pytest.mark.parametrize("kind", [ChatRenderer, TextRenderer])
def test_usage_is_null_until_the_last_chunk(kind):
    shown = renderer(kind, usage=True)
    assert shown.chunks(DONE)[0]["usage"] is None
    assert shown.usage_chunk(Usage(5, 2))["usage"]["total_tokens"] == 7
    assert shown.usage_chunk(Usage(5, 2))["choices"] == []
    assert "usage" not in renderer(kind).chunks(DONE)[0]


def test_the_field_is_null_where_checking_is_off():
    assert field(Done(0, "a", "stop", None), Show()) is None


def test_redactions_and_attempts_are_in_the_field():
    redacted = Done(0, "In [x]", "stop", decide(CHECKED, 0.5, "redact"), redactions=((3, 6),))
    assert field(redacted, Show())["spans"][0]["redacted"] == {"start": 3, "end": 6}
    failed = decide(Detection("not_checked", "capture_failed", detail="why"), 0.5)
    attempts = (Attempt("In Tokyo", decide(CHECKED, 0.5), True), Attempt("", failed, False))
    found = field(Done(0, "In Tokyo", "stop", decide(CHECKED, 0.5), attempts=attempts), Show())
    assert found["attempts"] == [
        {"text": "In Tokyo", "kept": True, "status": "checked", "reason": None, "score": 0.9, "flagged": True},
        {
            "text": "",
            "kept": False,
            "status": "not_checked",
            "reason": "capture_failed",
            "score": None,
            "flagged": None,
            "detail": "why",
        },
    ]


def test_headers_repeat_the_verdict():
    assert headers([DONE]) == {
        "x-groundwire-status": "checked",
        "x-groundwire-score": "0.9",
        "x-groundwire-flagged": "true",
        "x-groundwire-threshold": "0.5",
    }


def test_headers_of_several_choices_are_lists():
    chat = Done(1, "hi", "stop", decide(Detection("not_checked", "no_passages"), 0.5))
    found = headers([DONE, chat])
    assert found["x-groundwire-status"] == "checked, not_checked"
    assert found["x-groundwire-score"] == "0.9, null"
    assert found["x-groundwire-reason"] == "null, no_passages"


def test_headers_where_checking_is_off():
    assert headers([Done(0, "a", "stop", None)]) == {"x-groundwire-status": "disabled"}


def test_an_event_is_one_line_of_json():
    event = sse({"a": "line\nbreak 🙂"})
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    assert json.loads(event[6:]) == {"a": "line\nbreak 🙂"}
