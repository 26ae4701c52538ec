from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from groundwire.additive import Shapes
from groundwire.artifact import Artifact
from groundwire.detector import DEFAULT_ARTIFACT
from groundwire.scoring import Pooling
from groundwire.terms_page.effects import effects
from groundwire.terms_page.page import STRONGEST, page

HOSTILE = "<script>alert('x')</script>\"&</style>"


def said(markup: str) -> str:
    """The text of a page or a section, spaces made one."""
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", markup.rpartition("</head>")[2])))


def section(markup: str, name: str) -> str:
    return markup.split(f'<section id="{name}">')[1].split("</section>")[0]


def well_formed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup[markup.index("<body") : markup.index("</html>")].replace("<br>", "<br/>"))


@pytest.fixture(scope="module")
def shipped() -> Artifact:
    return Artifact.from_pretrained(DEFAULT_ARTIFACT)


def test_the_shipped_detector_has_a_page_below_three_megabytes(shipped):
    made = page(shipped)
    well_formed(made)
    assert len(made.encode()) < 3_000_000
    latents = [term for term in shipped.terms if term.kind == "latent"]
    assert section(made, "latents").count("<article") == STRONGEST
    assert section(made, "rest").count("<tr") - 1 == len(latents) - STRONGEST
    assert section(made, "others").count("<article") == len(shipped.terms) - len(latents)
    words = said(made)
    strongest = next(e for e in effects(shipped) if e.term.kind == "latent")
    first = shipped.latents[str(strongest.term.feature_id)]
    for text in (strongest.term.name, *first["promotes"], first["examples"][0]["after"].strip()):
        assert re.sub(r"\s+", " ", text).strip() in words
    for term in shipped.terms:
        assert re.sub(r"\s+", " ", term.name) in words


def test_it_says_once_that_a_term_is_no_cause(artifact):
    assert said(page(artifact)).count("evidence of the detector, not a cause of the model") == 1


def test_the_summary_counts_directions(artifact):
    words = said(section(page(artifact), "summary"))
    assert "terms 7 4 latent, 2 grounding, 1 residual" in words
    assert "▲ raises the score 3" in words
    assert "▼ lowers the score 2" in words
    assert "neither 2" in words
    assert "−2.000, a score of 0.12 where all terms say nothing" in words


def test_how_tokens_become_an_answer_is_said(artifact):
    assert "An answer takes the mean of its tokens' contributions over the 8 tokens in a row" in said(page(artifact))
    assert "a single token brings 1/8" in said(page(artifact))
    assert "times their mean over all" not in said(page(artifact))
    both = replace(artifact.scorer, pooling=Pooling("window", 4, 0.5, 0.25))
    words = said(page(replace(artifact, scorer=both)))
    assert "0.5 times the mean of its tokens' contributions over the 4 tokens" in words
    assert "0.25 times their mean over all tokens" in words
    highest = replace(artifact.scorer, pooling=Pooling("max"))
    assert "the highest value in the answer counts" in said(page(replace(artifact, scorer=highest)))


def test_terms_come_by_size_with_one_rank(artifact):
    made = page(artifact)
    ranks = {name: re.findall(r'class="rank">(\d+)<', section(made, name)) for name in ("others", "latents")}
    assert ranks == {"others": ["1", "3", "7"], "latents": ["2", "4", "5", "6"]}
    assert 'id="rest"' not in made
    assert 'href="#rest"' not in made


def test_the_weaker_latents_stand_in_a_table(with_shapes):
    number = STRONGEST + 2
    shapes = Shapes.steps([np.array([0.0])] * number, [np.array([0.0, (-1) ** i * (i + 1.0)]) for i in range(number)])
    words = said(section(page(with_shapes(shapes)), "rest"))
    assert "2 latents that can do less" in words
    assert f"{number - 1} 1 latent 1 ▼ lowers −2.000 to 0.000" in words
    assert f"{number} 0 latent 0 ▲ raises 0.000 to +1.000" in words


def test_one_page_loads_and_runs_nothing_whatever_the_artifact_says(artifact):
    hostile = replace(artifact, id=HOSTILE, version=HOSTILE, model=HOSTILE, hookpoint=HOSTILE)
    made = page(hostile)
    well_formed(made)
    assert made.startswith("<!doctype html>\n<html lang=")
    assert not re.findall(r"<(?:script|link|img|iframe|object|embed|base|form)\b", made)
    assert not re.findall(r"""(?:src|href|action)=["'](?!#)|url\(|@import|https?:""", made)
    assert made.count("</style>") == 1
    assert said(made).count(HOSTILE) >= 9  # all of it is there to read
    assert "default-src 'none'; style-src 'unsafe-inline'" in unescape(made)


def test_links_lead_somewhere_and_every_class_has_its_style(artifact):
    made = page(artifact)
    targets = re.findall('href="#([^"]*)"', made)
    assert len(targets) >= 5
    assert set(targets) <= set(re.findall(' id="([^"]*)"', made))
    style = made[made.index("<style>") : made.index("</style>")]
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) <= set(re.findall(r"(--[\w-]+):", style))
    named = {name for names in re.findall(' class="([^"]*)"', made) for name in names.split()}
    assert {name for name in named if f".{name}" not in style} == set()
