from __future__ import annotations

import functools
import json
import re

import pytest


@pytest.fixture
def results(tmp_path):
    rows = [{"score": "a|b", "AUC": 0.81234, "interval": [0.7, 0.9]}, {"score": "c", "AUC": None, "interval": None}]
    (tmp_path / "first.json").write_text(json.dumps({"tables": {"one": rows[:1]}}))
    (tmp_path / "second.json").write_text(json.dumps({"tables": {"one": rows[1:], "two": rows[:1]}}))
    return tmp_path


@pytest.fixture
def tables(script):
    return script("tables")


def test_tables_are_written_between_their_markers(tables, results):
    text = "before\n<!-- table:one -->\nold\n<!-- /table -->\nafter\n"
    rendered = tables.render(text, results)
    assert rendered == (
        "before\n<!-- table:one -->\n"
        "| score | AUC | interval |\n| --- | --- | --- |\n"
        "| a\\|b | 0.812 | 0.700 to 0.900 |\n| c |  |  |\n"
        "<!-- /table -->\nafter\n"
    )
    assert tables.render(rendered, results) == rendered


@pytest.mark.parametrize("text", ["<!-- table:one -->\n", "<!-- /table -->\n", "<!-- table:one --> x <!-- /table -->"])
def test_a_marker_alone_is_refused(tables, results, text):
    with pytest.raises(ValueError, match="needs its closing"):
        tables.render(text, results)


def test_a_table_without_results_is_refused(tables, results):
    with pytest.raises(ValueError, match="rows for the table 'none'"):
        tables.render("<!-- table:none -->\n<!-- /table -->", results)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_pages_are_up_to_date(tables, number):
    page = tables.PAGES[number]
    if not page.exists():
        pytest.skip(f"there is no {page.name} yet")
    if page.name == "vllm.md" and not (tables.RESULTS / "serving-overhead.json").exists():
        pytest.skip("benchmarks/serving_overhead.py has not been run yet")
    text = page.read_text(encoding="utf-8")
    assert tables.render(text) == text, "run: python benchmarks/tables.py"
    assert len(re.findall("<!-- table:", text)) == len(re.findall("<!-- /table -->", text))


def test_main_rewrites_the_pages_that_are_out_of_date(tables, results, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- table:two -->\n<!-- /table -->\n")
    monkeypatch.setattr(tables, "PAGES", (page, tmp_path / "absent.md"))
    monkeypatch.setattr(tables, "render", functools.partial(tables.render, results=results))
    tables.main()
    assert "| a\\|b |" in page.read_text()
    assert "page.md" in capsys.readouterr().out
    tables.main()
    assert capsys.readouterr().out == ""


def test_every_results_file_says_what_made_it(tables):
    for path in tables.RESULTS.glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert {"command", "versions", "tables"} <= set(found), path.name
