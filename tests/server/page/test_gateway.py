"""The page of a server that passes questions on, and of one that checks later."""

from __future__ import annotations

from groundwire.engines.fake import fake_detector
from groundwire.server.auth import hash_key
from groundwire.server.settings import Settings

ANSWER = "The Tidewater Bridge opened on 14 May 1999."
DONE = "!document.querySelector('#request').hidden"


def test_an_upstream_s_answer_is_judged(served, opened, tab):
    behind = served(detector=fake_detector({"When": ANSWER}), settings=Settings(served_model_name="theirs"))
    opened(detector=fake_detector(), settings=Settings(upstream_url=f"{behind.base_url}/v1"))
    tab.wait("document.querySelector('#model').value === 'theirs'")
    assert not any(option.startswith("halt") for option in tab.texts("#policy option"))
    tab.fill("#question", "When did it open?")
    tab.press("Enter")
    tab.wait("document.querySelector('#verdict .score')")
    assert tab.text("#shown .text") == ANSWER
    assert [mark.strip() for mark in tab.texts("mark")] == ["1999"]
    assert tab.text("#error") is None


def test_a_model_must_be_named_where_none_is_known(served, opened, tab):
    behind = served(settings=Settings(served_model_name="theirs"))
    keyed = Settings(upstream_url=f"{behind.base_url}/v1", api_keys=(hash_key("k"),))
    opened(detector=fake_detector(), settings=keyed)
    tab.click("#ask")
    assert tab.text("#error") == "Name a model first."
    assert tab.focused == "model"
    tab.write("ours")
    tab.fill("#key", "k")
    tab.press("Enter")
    tab.wait(DONE)
    assert "theirs" in tab.text("#error")


def test_an_answer_that_is_checked_later_has_no_verdict_yet(opened, tab):
    opened(detector=fake_detector({"When": ANSWER}), settings=Settings(observe_share=1.0))
    assert tab.text("#model-field") is None
    tab.fill("#question", "When did it open?")
    tab.press("Enter")
    tab.wait(DONE)
    assert tab.text("#error") is None
    assert tab.text("#shown .text") == ANSWER
    assert tab.text("#status") == "Not checked: this server answers without checking."
    assert tab.text("#verdict") == ""
