"""The page in a real browser: an answer is checked, looked into word by word, with the keyboard alone as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from groundwire.engines.fake import fake_detector

QUESTION = "When did the bridge open?"
PASSAGES = "The bridge opened in 1931.\n\nIt is 642 metres long.\n \n\nIt has two lanes 🌉."
UNFAITHFUL = "The bridge opened in 1931 in Zorn."
VERDICT = "document.querySelector('#verdict .score')"


@pytest.fixture
def checked(opened: Callable[..., Any], tab: Any) -> Any:
    """The page after an answer was checked."""
    server = opened(detector=fake_detector())
    tab.click("#clear")
    tab.write(PASSAGES)
    tab.click(".split")
    tab.fill("#question", QUESTION)
    tab.fill("#answer", UNFAITHFUL)
    tab.click("#check")
    tab.wait(VERDICT)
    return server


def boxes(tab: Any) -> list[str]:
    return tab.js("[...document.querySelectorAll('#passages textarea')].map((one) => one.value)")


def labels(tab: Any) -> list[str]:
    return tab.texts("#passages label")


def test_the_example_shows_something(opened, tab):
    opened()
    tab.click("#check")
    tab.wait(VERDICT)
    assert tab.text("#verdict .badge") == "Flagged"
    assert len(tab.texts("mark")) > 0


def test_an_answer_is_checked(checked, tab):
    assert tab.text("#shown .text") == UNFAITHFUL
    assert [mark.strip() for mark in tab.texts("mark")] == ["Zorn"]
    assert "Flagged" in tab.text("#status")
    assert '"inputs"' not in tab.text("#curl")
    assert "/v1/detect" in tab.text("#curl")


def test_an_empty_answer_is_not_sent(opened, tab):
    opened()
    tab.fill("#answer", "")
    tab.press("Enter", "ctrl")
    assert tab.text("#error") == "Write or paste an answer first."
    assert tab.focused == "answer"


def test_what_the_api_says_of_a_row_is_shown(opened, tab):
    opened()
    tab.click("#clear")
    tab.fill("#answer", UNFAITHFUL)
    tab.click("#check")
    tab.wait(VERDICT)
    assert tab.text("#verdict .badge") == "Not checked"
    assert "passages" in tab.text("#verdict")


def test_passages_are_split_added_removed_and_numbered(opened, tab):
    opened()
    assert len(boxes(tab)) == 2
    tab.click("#clear")
    assert boxes(tab) == [""]
    assert tab.text(".split") is None
    tab.write(PASSAGES)
    tab.click(".split")
    assert boxes(tab) == ["The bridge opened in 1931.", "It is 642 metres long.", "It has two lanes 🌉."]
    assert tab.focused == "passage-3"
    tab.click("#add")
    tab.write("more")
    assert boxes(tab)[3] == "more"
    tab.click("#passages li:nth-child(2) .remove")
    assert boxes(tab) == ["The bridge opened in 1931.", "It has two lanes 🌉.", "more"]
    assert labels(tab) == ["Passage 1", "Passage 2", "Passage 3"]
    assert tab.focused == "passage-2"
    for _ in range(3):
        tab.click(".remove")
    assert boxes(tab) == [""]


def test_pointing_at_a_word_says_why(checked, tab):
    tab.point("mark .word")
    card = tab.text("#card")
    assert card.startswith("“Zorn” score 0.")
    assert "Part 1 not supported" in card
    assert "passage" in card.lower()
    assert "word absent from the prompt +4.00" in card
    tab.point("h1")
    tab.wait("document.querySelector('#card').hidden")
    tab.point("#shown .word")
    assert tab.text("#card").startswith("“The” score 0.")
    assert "Part" not in tab.text("#card")
    left = "document.querySelector('{}').getBoundingClientRect().left"
    assert tab.js(left.format("#card")) == pytest.approx(tab.js(left.format("#shown .word")), abs=2)


def test_evidence_names_its_passage(opened, tab):
    opened(detector=fake_detector())
    tab.click("#clear")
    tab.write("The ferry was slow.\n\nThe Tidewater Bridge opened in 1931.")
    tab.click(".split")
    tab.fill("#question", QUESTION)
    tab.fill("#answer", "The Tidewater Bridge opened in 1952.")
    tab.click("#check")
    tab.wait(VERDICT)
    part = tab.text(".parts li")
    assert "“1952”" in part
    assert "Compare passage 2" in part
    assert "The Tidewater Bridge opened in 1931." in part


def test_the_keyboard_is_enough(opened, tab):
    opened(detector=fake_detector())
    order = []
    tab.js("document.body.focus()")
    for _ in range(11):
        tab.press("Tab")
        order.append(tab.focused)
    passages = ["remove", "passage-1", "remove", "passage-2", "add", "clear"]
    assert order == [*passages, "question", "policy", "ask", "answer", "check"]
    assert tab.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Tab", "shift")
    assert tab.focused == "answer"
    tab.press("Enter", "ctrl")
    tab.wait(VERDICT)
    assert tab.focused == "answer"
    tab.press("Tab", times=2)
    assert tab.focused == "word"
    assert tab.text("#card").startswith("“The”")
    tab.press("ArrowDown")
    assert tab.js("document.activeElement.closest('mark') !== null")
    assert "not supported" in tab.text("#card")
    described = tab.js("document.activeElement.getAttribute('aria-describedby')")
    assert described == "card"
    tab.press("ArrowRight")
    tab.press("ArrowLeft", times=2)
    assert tab.js("document.activeElement.textContent").strip() == "It"
    tab.press("Escape")
    assert tab.text("#card") is None
    tab.press("Tab")
    assert tab.focused == "reuse"  # one word only is in the tab order


def test_a_part_leads_to_its_words(checked, tab):
    tab.click(".parts button")
    assert tab.js("document.activeElement.textContent").strip() == "Zorn"
    assert "Part 1" in tab.text("#card")


def test_an_answer_can_be_edited_and_checked_again(opened, tab):
    opened(detector=fake_detector({QUESTION: UNFAITHFUL}))
    tab.fill("#question", QUESTION)
    tab.press("Enter")
    tab.wait(VERDICT)
    tab.click("#reuse")
    assert tab.focused == "answer"
    assert tab.js("document.querySelector('#answer').value") == UNFAITHFUL


def test_everything_has_a_name(checked, tab):
    """What the browser tells assistive technology of everything that can be used."""
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "combobox", "group", "status", "region", "form"}
    used = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    nameless = [role for role, name in used if role in roles - {"status", "group"} and not name]
    assert nameless == []
    names = {name for _, name in used}
    assert {"Passage 1", "Question", "If the answer is flagged", "Ask", "Or an answer to check", "Result"} <= names
    assert "status" in {role for role, _ in used}


@pytest.mark.parametrize("width", [320, 390, 768])
def test_narrow_screens_do_not_scroll_sideways(checked, tab, width):
    tab.resize(width, 800)
    assert tab.js("document.documentElement.scrollWidth") <= width
    tab.js(
        "[...document.querySelectorAll('.word')]"
        ".reduce((a, b) => (b.getBoundingClientRect().right > a.getBoundingClientRect().right ? b : a)).id = 'far'"
    )
    tab.click("#far")
    place = tab.js("(({ left, right }) => [left, right])(document.querySelector('#card').getBoundingClientRect())")
    assert place[0] >= 0
    assert place[1] <= width


def test_on_a_narrow_screen_the_result_comes_into_view(opened, tab):
    tab.resize(390, 800)
    opened()
    tab.click("#check")
    tab.wait(VERDICT)
    assert tab.js("document.querySelector('#result').getBoundingClientRect().top") < 400


def test_dark_is_dark(checked, tab):
    def brightness(selector: str, of: str) -> float:
        colour = tab.js(f"getComputedStyle(document.querySelector('{selector}')).{of}")
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))

    assert brightness("body", "backgroundColor") > 600 > 200 > brightness("body", "color")
    tab.media(prefers_color_scheme="dark")
    assert brightness("body", "backgroundColor") < 200 < 600 < brightness("body", "color")
    assert brightness("textarea", "backgroundColor") < 200
