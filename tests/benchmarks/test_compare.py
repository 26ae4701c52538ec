from __future__ import annotations

import importlib
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from groundwire.engines.reader import load_reader
from groundwire.errors import InputError
from groundwire.prompts import tokenize_response
from groundwire.sae import Dictionary, save_dictionary
from groundwire.training import fit
from groundwire.training.metrics import auc
from groundwire.training.tokens import calibrate_tokens, inside

FOLDER = Path(__file__).parents[2] / "benchmarks"
ANSWERS, WIDTH = 60, 32
SPANS = [{"start": 0, "end": 8}]
HONEST, INVENTED = "A keeper says so.", "It was built in {year}."


@pytest.fixture
def compare(monkeypatch):
    """The script as `python benchmarks/compare.py` sees it, its own folder first on the path."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setitem(fit.RECIPE, "max_rounds", 5)
    monkeypatch.setitem(fit.RECIPE, "outer_bags", 1)
    found = importlib.import_module("compare")
    monkeypatch.setattr(found.raglens, "LATENTS", 4)
    monkeypatch.setattr(found, "REPEATS", 3)
    monkeypatch.setattr(found, "SIZES", (20,))
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] in ("compare", "record", "baselines")]:
        del sys.modules[name]


@pytest.fixture
def work(compare, tmp_path, tiny_llama_folder) -> Path:
    """Data sets, rows and scores as `transfer.py` leaves them; column 0 tells what is invented."""
    rng, tokenizer = np.random.default_rng(0), load_reader(tiny_llama_folder).tokenizer
    for name in compare.SETS:
        lines, parts = [], []
        for number in range(ANSWERS):
            label = (number + number // 2) % 2
            response = INVENTED.format(year=1880 + number) if label else HONEST
            spanned = name in ("ragtruth-qa", "xsumfaith")
            row = {"prompt": f"Who built bridge {number // 2}?", "response": response, "label": label}
            row |= {"group": str(number // 2), "generator": f"g{number % 3}", "dataset": name, "id": f"{name}-{number}"}
            lines.append(json.dumps(row | ({"spans": SPANS if label else []} if spanned else {})))
            own = rng.normal(size=(len(tokenize_response(tokenizer, response)), WIDTH))
            own[:, 0] += 3 * label
            parts.append(own)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        (tmp_path / name).mkdir()
        lengths = torch.tensor([len(own) for own in parts])
        rows = {"rows": torch.from_numpy(np.concatenate(parts)).half(), "lengths": lengths}
        save_file(rows, tmp_path / name / "part-00000.safetensors")
        for view in compare.VIEWS:
            if view.name == name:
                leave_scores(tmp_path, view, parts, rng)
    both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    made = Dictionary(both, torch.zeros(2 * WIDTH), both, torch.zeros(WIDTH), "relu", hookpoint="model.layers.2")
    save_dictionary(made, tmp_path / "dictionary")
    np.savez(tmp_path / "logprob-dolly.npz", mean=np.arange(ANSWERS), sum=np.arange(ANSWERS))
    return tmp_path


def leave_scores(folder: Path, view, parts: list[np.ndarray], rng: np.random.Generator) -> None:
    for split, numbers in zip(view.splits, np.array_split(np.arange(ANSWERS), len(view.splits)), strict=True):
        path = folder / f"scores-{split}.npz"
        tokens = np.concatenate([parts[i][:, 0] for i in numbers])
        logits = np.array([parts[i][:, 0].mean() for i in numbers]) - 1.5 + rng.normal(size=len(numbers))
        own = {view.name: logits, f"{view.name}.tokens": tokens, f"{view.name}.rows": numbers}
        before = dict(np.load(path)) if path.exists() else {"weights": np.ones(3), "prevalence": np.array(0.3)}
        np.savez(path, **before, **own)


def run(compare, work, tiny_llama_folder):
    output = work / "results" / "compare.json"
    arguments = [work, work, "--dictionary", work / "dictionary", "--model", tiny_llama_folder, "-o", output]
    result = CliRunner().invoke(compare.main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.exception
    return json.loads(output.read_text(encoding="utf-8")), result.output


def test_every_view_stands_beside_its_baselines(compare, work, tiny_llama_folder, script):
    found, _ = run(compare, work, tiny_llama_folder)
    assert found["missing"] == []
    tables = found["tables"]
    assert [(row["data set"], row["left out"]) for row in tables["compare"]] == [
        (view.name, view.left_out) for view in compare.VIEWS
    ]
    assert all(row["AUC"] > 0.8 and row["token probe"] > 0.8 for row in tables["compare"])
    assert [row["summed surprise"] is None for row in tables["compare"] if row["data set"] == "dolly"] == [False]
    assert {row["data set"] for row in tables["tokens2"]} == {"ragtruth-qa", "xsumfaith"}
    assert all(row["token AUC"] > 0.5 for row in tables["tokens2"])
    assert {row["rows to recalibrate on"] for row in tables["curve"]} == {0, 20}
    assert len(list(ElementTree.parse(work / "results" / "reliability.svg").iter())) > 50
    for rows in tables.values():
        assert script("tables").markdown(rows)


def test_a_missing_split_is_named_and_the_others_stand(compare, work, tiny_llama_folder):
    (work / "scores-without-summedits.npz").unlink()
    (work / "scores-ragtruth-qa-fold-1.npz").unlink()
    found, said = run(compare, work, tiny_llama_folder)
    assert found["missing"] == ["ragtruth-qa-fold-1", "without-summedits"]
    assert "without-summedits" in said
    by_view = {(row["data set"], row["left out"]): row["rows"] for row in found["tables"]["compare"]}
    assert by_view["ragtruth-qa", "a fifth of its groups"] == ANSWERS * 4 // 5
    assert ("summedits", "summedits") not in by_view


def test_scores_of_other_rows_are_refused(compare, work):
    path = work / "scores-without-summedits.npz"
    np.savez(path, **dict(np.load(path)) | {"summedits.tokens": np.zeros(3)})
    view = compare.FIRST[3]
    examples = compare.read_labelled(work / "summedits.jsonl")
    with pytest.raises(InputError, match="does not fit the rows of summedits"):
        compare.see(view, examples, compare.read_rows(work / "summedits").offsets, work)


def test_a_shift_moves_the_mean_score_to_the_share_and_keeps_the_order(compare, work):
    view = compare.FIRST[2]
    examples = compare.read_labelled(work / "dolly.jsonl")
    seen, _ = compare.see(view, examples, compare.read_rows(work / "dolly").offsets, work)
    moved = seen.shifted() - seen.logits
    assert moved == pytest.approx(np.full(ANSWERS, np.log(0.7 / 0.3)))  # half of the rows are unfaithful
    assert auc(seen.labels, seen.shifted()) == auc(seen.labels, seen.logits)


def test_a_detector_that_is_worse_is_said_to_be(compare, work):
    view = compare.FIRST[2]
    examples = compare.read_labelled(work / "dolly.jsonl")
    seen, _ = compare.see(view, examples, compare.read_rows(work / "dolly").offsets, work)
    perfect = {"dolly": np.array([float(e.label) for e in examples])}
    lines = compare.differences([seen], perfect)
    assert lines[0]["detector"] in ("worse", "not distinguishable")
    assert lines[0]["AUC difference"] == pytest.approx((auc(seen.labels, seen.logits) or 0) - 1)
    reverse = {"dolly": -perfect["dolly"]}
    assert compare.differences([seen], reverse)[0]["detector"] == "better"


def test_spans_are_judged_on_the_half_of_the_groups_that_fitted_nothing(compare, work, tiny_llama_folder, monkeypatch):
    tokenizer = load_reader(tiny_llama_folder).tokenizer
    examples = compare.read_labelled(work / "ragtruth-qa.jsonl")
    truths = [inside(tokenize_response(tokenizer, e.response), e.spans) for e in examples]
    sums = [8.0 * truth - 4.0 for truth in truths]
    fitted_on = []

    def watched(_, part, values):
        fitted_on.append({e.group for e in part})
        return calibrate_tokens(tokenizer, part, values)

    monkeypatch.setattr(compare.spans, "calibrate_tokens", watched)
    lines = compare.spans.figures(compare.spans.Tokens(tokenizer, examples, sums))
    assert [line["half-width"] for line in lines] == [0, 2, 4, 6, 8, "chosen on the other half (0 and 0)"]
    assert lines[0]["token AUC"] == 1.0
    # 8 characters are labelled, "It was built" is drawn: spans cover whole words.
    assert lines[0]["span F1"] == pytest.approx(2 * 8 / (8 + 12))
    for one, other in zip(fitted_on[::2], fitted_on[1::2], strict=True):
        assert not one & other
        assert one | other == {e.group for e in examples}


def test_the_search_is_in_the_form_that_tables_render(script):
    rows = json.loads((FOLDER / "results" / "search.json").read_text(encoding="utf-8"))["tables"]["search"]
    assert len(script("tables").markdown(rows).splitlines()) == len(rows) + 2
    assert len({(row["trial"], row["measured on"]) for row in rows}) == len(rows)
