"""The yardsticks do the work they claim to: the recipe's own logits, each distinct token once, like over like."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from groundwire.detector import Detector
from groundwire.engines.reader import load_reader
from groundwire.prompts import tokenize_response
from groundwire.sae import Dictionary, save_dictionary
from groundwire.types import Example
from tests.detector.tiny import TERMS, random_artifact, tiny_engine, user

QUESTIONS = ("Who built the bridge?", "How high is it?", "Passage 1: The lighthouse was finished in 1889. When?")
ANSWERS = ("It was built in 1889.", "A builder from Lisbon, the keeper's log says.", "It is 41 metres high.")
WIDTH, LATENTS = 32, 40


@pytest.fixture
def throughput(script, monkeypatch):
    yield script("throughput")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("baselines", "record")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def dictionary():
    """One with all that a reader of it can forget: a scale, and a decoder bias that is taken off."""
    random = torch.Generator().manual_seed(0)
    encoder = torch.randn(LATENTS, WIDTH, generator=random) / WIDTH**0.5
    return Dictionary(
        encoder,
        torch.randn(LATENTS, generator=random) / 10,
        encoder,
        torch.randn(WIDTH, generator=random) / 10,
        "relu",
        input_scale=1.3,
        subtract_decoder_bias=True,
        hookpoint="model.layers.2",
    )


@pytest.fixture
def detector(tiny_llama_folder, dictionary):
    """The recipe: latents of the dictionary, pooled to their maximum over the answer."""
    engine = tiny_engine(tiny_llama_folder)
    artifact = random_artifact(engine, "max")
    scorer = replace(artifact.scorer, encoder=dictionary.select([3 * i for i in range(TERMS)]))
    return Detector(replace(artifact, scorer=scorer), engine, threshold=0.5)


@pytest.fixture
def folder(tmp_path):
    """Labelled files, three answers a prompt; one answer in each says nothing that could be checked."""
    for name in ("ragtruth-qa", "summedits", "dolly", "refchecker"):
        with (tmp_path / f"{name}.jsonl").open("w") as file:
            for number in range(18):
                answer = "The passages do not say." if number == 4 else f"{ANSWERS[number % 3]} Not {number}."
                row = {"prompt": f"{name} {number // 3}: {QUESTIONS[number % 18 // 6]}", "response": answer}
                group = number // 3 if name in ("dolly", "refchecker") else f"{name}-{number // 3}"
                file.write(json.dumps(row | {"label": number % 2, "group": str(group)}) + "\n")
    return tmp_path


def reader_of(detector):
    return load_reader(detector.engine.reader.model.name_or_path)


def rows_of(throughput, detector, path):
    return throughput.read_rows(path, detector.tokenizer, detector.engine.context)


def test_the_reference_gives_the_logits_of_the_recipe(throughput, detector, dictionary):
    scorer = detector.artifact.scorer
    chosen = torch.arange(TERMS) * 3
    reference = throughput.Reference(
        reader_of(detector), detector.engine.hookpoint, dictionary, chosen, scorer.shapes, scorer.intercept
    )
    examples = [Example(f"{q}{a}", user(q), a) for q in QUESTIONS for a in ANSWERS]
    ours = [detection.logit for detection in detector.score_batch(examples)]
    assert [reference.logit(example) for example in examples] == pytest.approx(ours, abs=1e-4)
    assert len({round(logit, 3) for logit in ours}) > len(ours) // 2  # they tell answers apart


def test_the_reference_runs_the_whole_model_and_the_whole_dictionary(throughput, detector, dictionary, monkeypatch):
    reference = throughput.Reference.unfitted(reader_of(detector), detector.engine.hookpoint, dictionary)
    encoded, headed = [], []
    model, example = reference.reader.model, Example("1", user(QUESTIONS[0]), ANSWERS[0])
    tokens = sum(map(len, reference.ids(example)))
    pre_activations = Dictionary.pre_activations
    monkeypatch.setattr(
        Dictionary,
        "pre_activations",
        lambda self, rows: encoded.append(tuple(rows.shape)) or pre_activations(self, rows),
    )
    hook = model.lm_head.register_forward_hook(lambda module, given, logits: headed.append(tuple(logits.shape)))
    reference.logit(example)
    hook.remove()
    assert encoded == [(tokens, WIDTH)]
    assert headed == [(1, tokens, model.config.vocab_size)]
    assert len(reference.chosen) == LATENTS  # the paper's 1,000 where there are as many


def test_distinct_tokens_are_those_that_scoring_reads(throughput, detector, folder):
    rows = rows_of(throughput, detector, folder / "ragtruth-qa.jsonl")
    assert len(rows) == 17  # without the abstention
    distinct = throughput.Distinct.of([row.ids for row in rows])
    responses = [tokenize_response(detector.tokenizer, row.example.response) for row in rows]
    prompts = {row.example.prompt: len(row.ids[0]) for row in rows}
    assert (len(distinct.prompts), len(distinct.responses)) == (6, 17)
    assert distinct.tokens == sum(prompts.values()) + sum(map(len, responses))
    before = sum(len(row.ids[0]) * len(row.ids[1]) for row in rows) / sum(len(row.ids[1]) for row in rows)
    assert distinct.prefix == round(before)


@pytest.mark.parametrize(("prefix", "packed"), [(0, False), (20, False), (20, True)])
def test_every_token_goes_through_the_layers_once_and_none_further(throughput, detector, monkeypatch, prefix, packed):
    bare = throughput.Bare(reader_of(detector), "model.layers.2")
    model, seen = bare.reader.model, []
    hook = model.model.layers[2].register_forward_hook(lambda module, given, rows: seen.append(rows.shape[:2].numel()))
    monkeypatch.setattr(model.model.layers[3], "forward", None)
    ids = [5 + i % 300 for i in range(50)]
    shape = sys.modules["baselines.reference"].Shape(3, 7, prefix, packed)
    assert bare.run(ids, shape) == 4  # 21 tokens twice, 7, and what is left of a sequence
    hook.remove()
    assert sum(seen) == 50 + prefix


def test_both_forms_of_a_prefix_are_the_same_attention(throughput, detector):
    """A batch of copies and one masked row give the rows that a plain pass gives behind the same prefix."""
    bare, reference = throughput.Bare(reader_of(detector), "model.layers.2"), sys.modules["baselines.reference"]
    ids, before = torch.arange(40, 52).view(3, 4), list(range(60, 80))
    bare._know(before)
    found = []
    forward = bare._forward

    def keep(**inputs):
        with reference.capture(bare.reader.model, "model.layers.2", stop=True) as hook:
            found.append(hook.run(bare.reader.model, **inputs)[0].reshape(12, -1))

    bare._forward = keep
    for packed in (False, True):
        bare._pass(ids, reference.Shape(3, 4, 20, packed))
    bare._forward = forward
    plain = [detector.engine.read([*before, *own])[-4:] for own in ids.tolist()]
    for rows in found:
        assert torch.allclose(rows, torch.cat(plain), atol=1e-4)


def test_the_work_of_a_bare_pass_is_scaled_to_all_of_its_tokens(throughput, detector, folder, monkeypatch):
    monkeypatch.setattr(sys.modules["baselines.reference"], "PASSES", (16, 32))
    bare = throughput.Bare(reader_of(detector), "model.layers.2")
    distinct = throughput.Distinct.of([row.ids for row in rows_of(throughput, detector, folder / "summedits.jsonl")])
    work = bare.plan(distinct, 30)
    assert sum(work[kind].scale * len(work[kind].ids) for kind in ("prompts", "responses")) == distinct.tokens
    assert {kind: each.shape.prefix for kind, each in work.items()} == {
        "prompts": 0,
        "responses": 0,
        "responses after their prompt": distinct.prefix,
    }
    assert bare.seconds(work["prompts"]) > 0


def test_rows_are_whole_prompts_or_shuffled_or_of_distinct_prompts(throughput, detector, folder):
    args = SimpleNamespace(rows=4, rounds=5, shuffled_rows=100)
    every = {name: rows_of(throughput, detector, folder / f"{name}.jsonl") for name in ("ragtruth-qa", "summedits")}

    def gather(name):
        return throughput.gather(name, lambda file: rows_of(throughput, detector, folder / f"{file}.jsonl"), args)

    assert gather("ragtruth-qa").rows == every["ragtruth-qa"][:5]  # three answers, and two of the next three
    shuffled = gather("summedits, shuffled")
    assert (len(shuffled.rows), shuffled.rounds) == (17, 5)
    assert shuffled.rows != every["summedits"]
    assert {row.line for row in shuffled.rows} == {row.line for row in every["summedits"]}
    args.rows = 100
    distinct = gather("distinct prompts").rows
    assert len(distinct) == len({row.ids[0] for row in distinct}) == 6 + 6  # refchecker's contexts are dolly's
    args.rows = 4
    assert len(gather("distinct prompts").rows) == 4


def test_a_sample_is_spread_evenly(throughput):
    assert throughput.spread(range(10), 5) == [1, 3, 5, 7, 9]
    assert throughput.spread(range(3), 5) == [0, 1, 2]


def test_a_run_measures_all_three_and_compares_dtypes(throughput, detector, dictionary, folder, tmp_path, monkeypatch):
    detector.artifact.save_pretrained(tmp_path / "artifact")
    save_dictionary(dictionary, tmp_path / "artifact" / "dictionary")
    model = detector.engine.reader.model.name_or_path
    from_pretrained = Detector.from_pretrained
    monkeypatch.setattr(Detector, "from_pretrained", lambda *a, **k: from_pretrained(*a, model=model, **k))
    monkeypatch.setattr(throughput, "load_reader", lambda name: load_reader(model))
    monkeypatch.setattr(throughput, "keep_freed_memory", lambda: False)  # the tests' process is not the benchmark's
    monkeypatch.setattr(sys.modules["baselines.reference"], "PASSES", (16, 32))
    options = ["--artifact", str(tmp_path / "artifact"), "--rows", "6", "--reference-rows", "2", "--rounds", "2"]
    options += ["--dtypes", "bfloat16", "-o", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", ["benchmarks/throughput.py", str(folder), *options])
    throughput.main()
    found = json.loads((tmp_path / "out.json").read_text())
    shown = found["tables"]["throughput"]
    assert [row["data"] for row in shown] == list(throughput.SETS)
    for row, figures in zip(shown, found["throughput"], strict=True):
        low, high = row["range"]
        assert low <= row["ours / reference"] <= high
        for each in figures["rounds"]:
            assert each["over_reference"]["float32"] == pytest.approx(each["ours"]["float32"] / each["reference"])
            bare = sum(each["bare_seconds"][kind] for kind in ("prompts", "responses"))
            assert each["of_bare"] == pytest.approx(bare * each["ours"]["float32"] / figures["rows"])
    dtypes = found["tables"]["throughput-dtypes"]
    assert [row["dtype"] for row in dtypes] == ["float32", "bfloat16"] * len(throughput.SETS)
    assert all(row["largest"] == 0 and row["/ float32"] == 1 for row in dtypes[::2])
    assert all(0 < row["score difference, mean"] <= row["largest"] < 0.2 for row in dtypes[1::2])


def test_rows_that_are_not_checked_would_be_free_and_are_refused(throughput, detector, folder):
    ours = throughput.Ours(detector)
    with pytest.raises(RuntimeError, match="17 of 18 rows"):
        ours.seconds(folder / "dolly.jsonl", folder / "out.jsonl", 18)


def test_another_device_is_measured_alone(throughput, detector, folder):
    rows = rows_of(throughput, detector, folder / "dolly.jsonl")
    data = throughput.Data("dolly", rows, 2)
    (row,) = throughput.on_device(data, {"float32": throughput.Ours(detector)}, folder)
    low, high = row["range"]
    assert low <= row["rows/s"] <= high
    assert row["tokens/s"] == pytest.approx(row["rows/s"] * data.distinct.tokens / len(rows), abs=1)
