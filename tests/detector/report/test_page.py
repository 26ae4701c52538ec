from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html import unescape

import pytest

from groundwire.report.page import page
from groundwire.report.rows import parse_scored
from groundwire.report.tally import Tally

HOSTILE = "<script>alert(1)</script>"


def made(*rows: dict, **names: str) -> str:
    tally = Tally(top=5)
    for line, row in enumerate(rows, 1):
        tally.add(parse_scored(row, line))
    return page(tally, **({"scored": "scored.jsonl"} | names))


def said(markup: str) -> str:
    body = markup[markup.index("<body") :]
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", body)))


def unchecked(verdict, name: int, reason: str) -> dict:
    return verdict(name, status="not_checked", reason=reason, score=None, flagged=None)


def test_the_head_names_detector_and_counts(verdict):
    words = said(made(verdict(1), verdict(2, score=0.2, flagged=False), unchecked(verdict, 3, "abstained")))
    for part in ("id d", "version 1", "model m", "hookpoint model.layers.0", "threshold 0.5"):
        assert part in words
    assert "share flagged 50.0% 1 of 2 checked. Not the rate of hallucination: the detector errs" in words
    assert "not checked 1 never counted as clean" in words
    assert "abstained “the passages do not say” is not a claim 1" in words


def test_a_file_without_checked_rows_says_nothing_of_the_answers(verdict):
    words = said(made(unchecked(verdict, 1, "no_passages"), unchecked(verdict, 2, "tool_call")))
    assert "share flagged – 0 of 0 checked" in words
    assert "No answer was checked, so there are no scores. This says nothing about the answers." in words
    assert "0.0%" not in words


def test_rows_unlike_training_are_counted_where_it_is_known(verdict):
    assert "rows far from what" not in said(made(verdict()))
    unlike = {"distance": 3.0, "quantile": 0.99, "flag": True}
    assert "unlike training 1 rows far from what" in said(made(verdict(unlike_training=unlike), verdict()))


def test_scores_of_several_detectors_are_not_mixed_in_silence(verdict):
    assert "scores do not compare" not in said(made(verdict(), verdict()))
    assert "scores do not compare" in said(made(verdict(), verdict(threshold=0.3)))
    assert "scores do not compare" in said(made(verdict(), verdict(detector={"id": "other"})))
    assert "does not say which detector" in said(made(verdict(detector=None)))


def test_one_page_loads_and_runs_nothing(verdict):
    whole = made(verdict(HOSTILE), scored=HOSTILE, answers=HOSTILE)
    assert whole.startswith("<!doctype html>\n<html lang=")
    assert not re.findall(r"<(?:script|link|img|iframe|object|embed|base|form)\b", whole)
    assert not re.findall(r"""(?:src|href|action)=["'](?!#)|url\(|@import|https?:""", whole)
    assert "default-src 'none'; style-src 'unsafe-inline'" in unescape(whole)
    assert "prefers-color-scheme: dark" in whole


def test_elements_are_closed_and_links_lead_somewhere(verdict):
    whole = made(verdict(), unchecked(verdict, 2, "abstained"))
    body = whole[whole.index("<body") : whole.index("</html>")].replace("<br>", "<br/>")
    ElementTree.fromstring(body)
    targets = re.findall('href="#([^"]*)"', whole)
    assert len(targets) >= 5
    assert set(targets) <= set(re.findall(' id="([^"]*)"', whole))


@pytest.mark.parametrize("top", [0, 1])
def test_no_more_answers_than_asked_for(verdict, top):
    tally = Tally(top=top)
    for line in (1, 2):
        tally.add(parse_scored(verdict(line), line))
    assert page(tally, scored="s").count("<article") == top


def test_every_class_and_variable_of_the_page_is_in_its_style(verdict):
    whole = made(verdict(shares={"latent": 1.0, "grounding": 1.0, "residual": 1.0}), unchecked(verdict, 2, "abstained"))
    style = whole[whole.index("<style>") : whole.index("</style>")]
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= set(re.findall(r"(--[\w-]+):", style))
    named = {name for names in re.findall(' class="([^"]*)"', whole) for name in names.split()}
    assert {name for name in named if f".{name}" not in style} == set()
