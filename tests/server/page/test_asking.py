"""The page in a real browser: a question is asked, the answer streams in, the verdict is read from the page."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from groundwire.engines.fake import fake_detector
from groundwire.server.settings import Settings

QUESTION = "When did the bridge open?"
PASSAGE = "The bridge opened in 1931 and is 642 metres long."
UNFAITHFUL = "The bridge opened in Tokyo."
DONE = "!document.querySelector('#request').hidden"


def slow(answer: str, seconds: float = 0.05) -> Any:
    """A detector whose model takes its time for each word."""
    detector = fake_detector({QUESTION: answer})
    stream = detector.engine.stream

    def words(*given: Any) -> Iterator[Any]:
        for step in stream(*given):
            time.sleep(seconds)
            yield step

    detector.engine.stream = words
    return detector


@pytest.fixture
def asked(opened: Callable[..., Any], tab: Any) -> Callable[..., Any]:
    """`asked(answer, ...)`: passages and question are typed, Ask is clicked, the answer is there."""

    def ask(answer: str = UNFAITHFUL, passage: str = PASSAGE, policy: str | None = None, **given: Any) -> Any:
        server = opened(detector=fake_detector({QUESTION: answer}), **given)
        tab.click("#clear")
        tab.write(passage)
        tab.fill("#question", QUESTION)
        if policy:
            tab.js(f"document.querySelector('#policy').value = '{policy}'")
        tab.click("#ask")
        tab.wait(DONE)
        return server

    return ask


def test_the_verdict_appears_and_the_part_is_marked(asked, tab):
    asked()
    assert tab.text("#shown .text") == UNFAITHFUL
    assert tab.texts("mark") == ["Tokyo"] or tab.texts("mark") == [" Tokyo"]
    assert tab.text("#status").startswith("Flagged: score 0.")
    assert tab.text("#verdict .badge") == "Flagged"
    assert "flagged above 0.50" in tab.text("#verdict")
    assert "word absent from the prompt" in tab.text("#verdict table:nth-of-type(2)")
    assert "activations (latents)" in tab.text("#verdict table")
    assert tab.text("#error") is None


def test_it_works_without_colour(asked, tab):
    asked()
    style = "getComputedStyle(document.querySelector('mark')).textDecorationLine"
    assert tab.js(style) == "underline"
    assert tab.js("getComputedStyle(document.querySelector('mark'), '::after').content") == '"1"'
    tab.media(forced_colors="active")
    assert tab.js(style) == "underline"


def test_riskier_words_have_more_colour(asked, tab):
    asked()
    risks = tab.js("[...document.querySelectorAll('.word')].map((one) => Number(one.style.getPropertyValue('--risk')))")
    words = tab.texts(".word")
    tokyo = next(i for i, word in enumerate(words) if "Tokyo" in word)
    assert risks[tokyo] == max(risks)
    assert risks[tokyo] > 0.9 > risks[0]
    colours = tab.js("[...document.querySelectorAll('.word')].map((one) => getComputedStyle(one).backgroundColor)")
    assert colours[tokyo] != colours[0]


def test_a_faithful_answer_is_not_flagged(asked, tab):
    asked("The bridge opened in 1931.")
    assert tab.text("#verdict .badge") == "Not flagged"
    assert tab.texts("mark") == []
    assert "No parts are marked." in tab.text("#status")


def test_without_passages_nothing_is_scored(asked, tab):
    asked(passage="")
    assert tab.text("#verdict .badge") == "Not checked"
    assert "no_passages" in tab.text("#verdict")
    assert tab.text("#shown .text") == UNFAITHFUL
    assert tab.js("document.querySelector('#verdict .scale')") is None
    assert tab.text("#shown-hint") is None


def test_the_answer_streams_in_coloured_and_escape_stops_it(opened, tab):
    server = opened(detector=slow("Nobody in Tokyo " + "ever saw the bridge " * 100))
    tab.fill("#question", QUESTION)
    tab.press("Enter")
    tab.wait("document.querySelectorAll('.word').length > 4")
    assert tab.text("#running") is not None
    assert tab.js("document.querySelector('#shown .text').getAttribute('aria-busy')") == "true"
    tab.wait("Number(document.querySelector('#running b').textContent) > 0.5")
    assert tab.js("[...document.querySelectorAll('.word')].some((one) => one.style.getPropertyValue('--risk') > 0.5)")
    assert tab.text("#stop") == "Stop"
    tab.press("Escape")
    tab.wait(DONE)
    assert tab.text("#status") == "Stopped: what there is was not checked."
    assert tab.text("#shown .text").startswith("Nobody in Tokyo")
    assert len(tab.texts(".word")) < 300
    assert tab.text("#stop") is None
    deadline = time.monotonic() + 30
    while server.app.state.loop.active and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.app.state.loop.active == 0


def test_a_second_question_takes_over_from_the_first(opened, tab):
    server = opened(detector=slow(UNFAITHFUL, 0.2))
    tab.fill("#question", QUESTION)
    tab.press("Enter")
    tab.wait("document.querySelectorAll('.word').length > 0")
    tab.fill("#question", "Another")
    tab.press("Enter")
    tab.wait("document.querySelectorAll('.word').length > 0")
    assert tab.text("#status") == "Answering …"
    assert tab.text("#stop") == "Stop"
    assert server.app.state.loop.active == 1
    tab.wait(DONE)
    assert tab.text("#shown .text").startswith(
        "Answer the question using"
    )  # how the fake answers what it does not know
    assert tab.text("#error") is None


def test_offsets_are_right_behind_emoji(asked, tab):
    answer = "👩‍🚀 The 🌉🌉 bridge 🇳🇴 opened 🎉 in Tokyo 🎉 1931."
    asked(answer)
    assert tab.text("#shown .text") == answer
    assert [mark.strip() for mark in tab.texts("mark")] == ["Tokyo"]
    words = tab.texts(".word")
    assert "".join(tab.texts(".text :is(.word, .gap)")) == answer
    assert any(word.strip() == "👩‍🚀" for word in words)  # four tokens, one character
    assert any(word.strip() == "🇳🇴" for word in words)


@pytest.mark.parametrize(
    ("policy", "shown", "said"),
    [
        ("redact", "The bridge opened in[unsupported].", "taken out"),
        ("block", "This answer was withheld: it is not supported by the passages.", "withheld"),
        ("hold", UNFAITHFUL, "held back"),
        ("regenerate", UNFAITHFUL, "asked again"),
    ],
)
def test_policies(asked, tab, policy, shown, said):
    asked(policy=policy)
    assert tab.text("#shown .text").replace(" [", "[") == shown
    assert said in tab.text("#verdict .action")
    assert tab.text("#verdict .badge") == "Flagged"
    expected = {"redact": ["[unsupported]"], "block": []}.get(policy, ["Tokyo"])
    assert [mark.strip() for mark in tab.texts("mark")] == expected


def test_only_allowed_policies_are_offered(opened, tab):
    opened(settings=Settings(policy="hold", allowed_policies=("annotate", "hold")))
    assert tab.texts("#policy option") == ["annotate: mark it", "hold: show it once checked"]
    assert tab.js("document.querySelector('#policy').value") == "hold"


def test_errors_are_shown_as_the_api_says_them(opened, tab):
    opened(settings=Settings(max_body_bytes=300))
    tab.fill("#question", QUESTION)
    tab.click("#ask")
    tab.wait(DONE)
    assert tab.text("#error") == "The body of the request is larger than 300 bytes. (request_too_large)"
    assert tab.text("#shown") is None
    assert tab.js("document.querySelector('#error').getAttribute('role')") == "alert"


def test_an_error_in_the_middle_of_an_answer_is_shown(opened, tab):
    detector = fake_detector({QUESTION: UNFAITHFUL})
    stream = detector.engine.stream

    def broken(*given: Any) -> Iterator[Any]:
        yield from itertools.islice(stream(*given), 3)
        raise RuntimeError

    detector.engine.stream = broken
    opened(detector=detector)
    tab.fill("#question", QUESTION)
    tab.press("Enter")
    tab.wait(DONE)
    assert tab.text("#error") == "The model failed while it generated. Try again. (engine_failed)"
    assert tab.text("#shown .text").startswith("The bridge")
    assert tab.text("#verdict") == ""


def test_a_server_that_is_gone_is_said_to_be(opened, tab):
    server = opened(detector=slow("a bridge " * 200))
    tab.fill("#question", QUESTION)
    tab.press("Enter")
    tab.wait("document.querySelectorAll('.word').length > 2")
    server.server.force_exit = server.server.should_exit = True
    tab.wait(DONE)
    assert tab.text("#error")
    assert tab.text("#verdict") == ""


def test_a_question_is_needed(opened, tab):
    opened()
    tab.fill("#question", "")
    tab.press("Enter")
    assert tab.text("#error") == "Write a question first."
    assert tab.focused == "question"


def test_an_answer_is_halted(asked, tab):
    asked("In Tokyo the bridge opened, as Zorn said, and nobody ever saw more of it.", policy="halt")
    assert tab.text("#verdict .action").startswith("The answer was stopped")
    assert tab.text("#shown .text").startswith("In Tokyo")
    assert not tab.text("#shown .text").endswith("of it.")
