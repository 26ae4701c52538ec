from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.guard import decide
from groundwire.server.policies import (
    FAILURES,
    HELD,
    POLICIES,
    Rules,
    better,
    lowest_false_alarms,
    redact,
    rule,
    try_again,
)
from groundwire.types import Detection, Span

RULES = Rules("annotate", 0.5, 0.8, fail_closed=False, redaction="[x]", block_message="withheld")
TEXT = "It opened in Tokyo in 1950."
SPANS = (Span(13, 18, "Tokyo", 0.9), Span(22, 26, "1950", 0.8))
BAD = Detection("checked", score=0.9, spans=SPANS)
GOOD = Detection("checked", score=0.1)


def not_checked(reason: str) -> Detection:
    return Detection("not_checked", reason)  # type: ignore[arg-type]


def outcome(policy: str, detection: Detection = BAD, **given: bool):
    closed = given.pop("closed", False)
    return rule(replace(RULES, policy=policy, fail_closed=closed), TEXT, "stop", detection, **given)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_answer_that_is_not_flagged_goes_out_as_it_is(policy):
    out = outcome(policy, GOOD)
    assert (out.text, out.finish_reason, out.own, out.redactions) == (TEXT, "stop", True, None)
    assert out.verdict.flagged is False
    assert out.verdict.action == ("hold" if policy == "hold" else "annotate")


def test_annotate_changes_nothing():
    out = outcome("annotate")
    assert (out.text, out.verdict.flagged, out.verdict.action) == (TEXT, True, "annotate")


def test_redact_replaces_spans_and_says_where():
    out = outcome("redact")
    assert out.text == "It opened in [x] in [x]."
    assert [out.text[a:b] for a, b in out.redactions or ()] == ["[x]", "[x]"]
    assert (out.verdict.action, out.own, out.finish_reason) == ("redact", False, "stop")
    assert out.verdict.spans == SPANS


def test_redact_without_spans_says_that_nothing_was_done():
    out = outcome("redact", replace(BAD, spans=()))
    assert (out.text, out.verdict.action, out.own) == (TEXT, "annotate", True)


def test_block_replaces_the_answer():
    out = outcome("block")
    assert (out.text, out.finish_reason, out.own) == ("withheld", "content_filter", False)
    assert (out.verdict.action, out.verdict.score) == ("block", 0.9)


@pytest.mark.parametrize("detection", [BAD, GOOD])
def test_a_halted_answer_says_so_whatever_the_score_of_all_of_it(detection):
    out = outcome("halt", detection, halted=True)
    assert (out.text, out.finish_reason, out.verdict.action) == (TEXT, "content_filter", "halt")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("reason", sorted(FAILURES))
def test_a_failed_check_is_blocked_where_failures_are_closed(policy, reason):
    assert outcome(policy, not_checked(reason)).text == TEXT
    closed = outcome(policy, not_checked(reason), closed=True)
    assert (closed.text, closed.finish_reason, closed.verdict.action) == ("withheld", "content_filter", "block")
    assert closed.verdict.score is None
    assert closed.verdict.flagged is None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("reason", ["no_passages", "abstained", "tool_call", "empty_response", "disabled"])
def test_nothing_to_check_is_no_failure(policy, reason):
    assert outcome(policy, not_checked(reason), closed=True).text == TEXT


def test_what_is_held():
    assert {p for p in POLICIES if replace(RULES, policy=p).held} == HELD == {"redact", "block", "regenerate", "hold"}
    assert all(replace(RULES, policy=p, fail_closed=True).held for p in POLICIES)


def test_halting_needs_the_policy_and_a_score_above_its_threshold():
    halt = replace(RULES, policy="halt")
    assert [halt.halts(score) for score in (None, 0.5, 0.8, 0.81)] == [False, False, False, True]
    assert not RULES.halts(0.99)


def test_the_halt_threshold_is_the_highest_that_can_be_passed():
    assert lowest_false_alarms({"a": 0.5, "b": 0.86, "c": 1.0}, 0.5) == 0.86
    assert lowest_false_alarms({"a": 0.5}, 0.7) == 0.7
    assert lowest_false_alarms({}, 0.7) == 0.7


def test_a_second_attempt_is_told_what_was_wrong():
    asked = [{"role": "user", "content": "When?"}]
    messages = try_again(asked, TEXT, BAD)  # type: ignore[arg-type]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == TEXT
    assert '"Tokyo"' in messages[2]["content"]
    assert '"1950"' in messages[2]["content"]
    plain = try_again(asked, TEXT, replace(BAD, spans=()))[2]["content"]  # type: ignore[arg-type]
    assert plain.startswith("Your answer is not supported by the passages.")


def test_the_better_of_two_attempts():
    ranked = [
        Detection("checked", score=0.1),
        Detection("checked", score=0.4),
        not_checked("abstained"),
        Detection("checked", score=0.6),
        Detection("checked", score=0.9),
        not_checked("empty_response"),
    ]
    verdicts = [decide(detection, 0.5) for detection in ranked]
    for i, first in enumerate(verdicts):
        assert [better(first, second) for second in verdicts] == [j < i for j in range(len(verdicts))]


@given(st.text(max_size=40), st.lists(st.integers(0, 40), max_size=8, unique=True), st.text(max_size=5))
def test_redaction_keeps_all_that_is_no_span(text, cuts, mark):
    cuts = sorted(cut for cut in cuts if cut <= len(text))
    spans = [Span(a, b, text[a:b], 0.9) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    redacted, places = redact(text, spans, mark)
    assert len(places) == len(spans)
    assert all(redacted[a:b] == mark for a, b in places)
    back, at = "", 0
    for span, (a, b) in zip(spans, places, strict=True):
        back, at = back + redacted[at:a] + span.text, b
    assert back + redacted[at:] == text
