"""What the page keeps to itself, and what it does not take for its own: keys, and text that looks like markup."""

from __future__ import annotations

import pytest

from groundwire.engines.fake import fake_detector
from groundwire.server.auth import hash_key
from groundwire.server.settings import Settings


def test_text_never_becomes_markup(opened, tab):
    answer = "The bridge <img src=x onerror=alert(1)> opened in <b>Tokyo</b>."
    opened(detector=fake_detector({"When": answer}))
    tab.fill("#passage-1", "<script>alert(2)</script> The bridge opened in 1931.")
    tab.fill("#question", "When?<i>")
    tab.press("Enter")
    tab.wait("document.querySelector('#verdict .score')")
    assert tab.text("#shown .text") == answer
    assert tab.js("document.querySelector('#result :is(img, script), #shown .text :is(b, i)')") is None


def test_the_browser_itself_keeps_text_from_becoming_markup(opened, tab):
    opened()
    with pytest.raises(RuntimeError, match="TrustedHTML"):
        tab.js("document.body.innerHTML = '<img src=x onerror=alert(1)>'")
    assert any("TrustedHTML" in one for one in tab.complaints())
    tab.browser.events.clear()


def test_the_key_is_asked_for_and_goes_nowhere_else(opened, tab):
    opened(settings=Settings(api_keys=(hash_key("secret-key"),)), detector=fake_detector())
    tab.click("#ask")
    tab.wait("!document.querySelector('#request').hidden")
    assert "API key" in tab.text("#error")
    tab.click("#key")
    tab.write("secret-key")
    tab.press("Enter")
    tab.wait("document.querySelector('#verdict .score')")
    assert "GROUNDWIRE_API_KEY" in tab.text("#curl")
    assert "secret-key" not in tab.js("document.documentElement.outerHTML")
    assert tab.js("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_no_key_is_asked_for_where_none_is_needed(opened, tab):
    opened()
    assert tab.text("#key-field") is None
