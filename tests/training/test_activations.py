from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from groundwire.errors import InputError
from groundwire.training import activations
from groundwire.training.activations import SINK_NORM, collect, load_rows, row_count, without_sinks
from groundwire.training.text import sequences

LAYER, HOOKPOINT = 2, "model.layers.2"
DESCRIPTION = {"model": "tiny", "text": "articles.jsonl"}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(activations, "SHARD_ROWS", 450)
    monkeypatch.setattr(activations, "WINDOW", 8)
    monkeypatch.setattr(activations, "BATCH_TOKENS", 300)


@pytest.fixture
def texts(articles, tiny):
    return list(sequences(articles, tiny.tokenizer, held_out=False, context=64))


def gather(tiny, texts, folder, tokens=3000, **description):
    return collect(
        tiny.model, HOOKPOINT, iter(texts), folder, tokens=tokens, description={**DESCRIPTION, **description}
    )


def contents(shards):
    return [load_file(path) for path in shards]


def same(left, right):
    return len(left) == len(right) and all(a[k].equal(b[k]) for a, b in zip(left, right, strict=True) for k in a)


def test_shards_hold_the_hidden_states_of_hugging_face(tiny, texts, tmp_path):
    """Sequence by sequence, unpadded: every row but the first and those of outsized norm, to float16's precision."""
    found = contents(gather(tiny, texts, tmp_path))
    rows, tokens, numbers = (torch.cat([part[name] for part in found]) for name in ("rows", "tokens", "sequences"))
    assert (rows.dtype, tokens.dtype, numbers.dtype) == (torch.float16, torch.int32, torch.int32)
    assert len(rows) >= 3000
    seen = numbers.unique().tolist()
    assert seen == list(range(len(seen)))
    for number in seen:
        ids = torch.tensor([texts[number]])
        with torch.inference_mode():
            wanted = tiny.model(input_ids=ids, output_hidden_states=True).hidden_states[LAYER + 1][0]
        norms = wanted.norm(dim=-1)
        keep = norms <= SINK_NORM * norms.median()
        keep[0] = False
        torch.testing.assert_close(rows[numbers == number].float(), wanted[keep], rtol=2e-3, atol=2e-3)
        assert tokens[numbers == number].tolist() == ids[0, keep].tolist()


def test_rows_of_outsized_norm_are_left_out():
    rows = torch.ones(6, 4)
    rows[0], rows[2], rows[3], rows[4] = 1.0, 5.0, 5.1, torch.nan
    first = torch.tensor([True, False, False, False, False, False])
    assert without_sinks(rows[[0, 1, 2, 3, 5]], first[:5]).tolist() == [False, True, True, False, True]
    assert not without_sinks(rows, first)[4]


class Stop:
    """Sequences that end in KeyboardInterrupt, as a user ends a run."""

    def __init__(self, texts, after):
        self.texts, self.after = texts, after

    def __iter__(self):
        yield from self.texts[: self.after]
        raise KeyboardInterrupt


@pytest.mark.parametrize("after", [3, 20, 33])
def test_an_interrupted_run_continues_to_the_same_shards(tiny, texts, tmp_path, after):
    wanted = contents(gather(tiny, texts, tmp_path / "whole"))
    assert len(wanted) > 3
    with pytest.raises(KeyboardInterrupt):
        gather(tiny, Stop(texts, after), tmp_path / "cut")
    kept = sorted((tmp_path / "cut").glob("shard-*.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert len(kept) < len(wanted)
    assert same(contents(gather(tiny, texts, tmp_path / "cut")), wanted)
    assert {path: path.stat().st_mtime_ns for path in kept} == before  # not computed again


@pytest.mark.parametrize("missing", [[0], [1], [2, 3], [0, 1, 2, 3]])
def test_missing_shards_are_computed_again(tiny, texts, tmp_path, missing):
    shards = gather(tiny, texts, tmp_path)
    wanted = contents(shards)
    for index in missing:
        shards[index].unlink()
    assert same(contents(gather(tiny, texts, tmp_path)), wanted)


def test_a_finished_run_reads_no_text_again(tiny, texts, tmp_path):
    shards = gather(tiny, texts, tmp_path)
    assert gather(tiny, Stop([], 0), tmp_path) == shards


def test_more_tokens_are_added_to_what_is_there(tiny, texts, tmp_path):
    few = gather(tiny, texts, tmp_path, tokens=1000)
    begun = contents(few)
    more = gather(tiny, texts, tmp_path, tokens=2500)
    assert same(contents(more)[: len(few)], begun)
    numbers = torch.cat([part["sequences"] for part in contents(more)]).unique()
    assert numbers.tolist() == list(range(len(numbers)))
    assert sum(map(row_count, more)) == len(load_rows(more)) >= 2500


def test_text_that_ends_early_gives_what_there_is(tiny, texts, tmp_path):
    shards = gather(tiny, texts[:5], tmp_path, tokens=10**6)
    assert sum(map(row_count, shards)) == sum(len(ids) - 1 for ids in texts[:5])


def test_another_model_or_text_in_the_same_folder_is_refused(tiny, texts, tmp_path):
    gather(tiny, texts, tmp_path, tokens=500)
    with pytest.raises(InputError, match="holds activations of another"):
        gather(tiny, texts, tmp_path, tokens=500, text="other.jsonl")
    assert json.loads((tmp_path / "source.json").read_text()) == DESCRIPTION


def test_a_first_run_that_failed_binds_nothing(tiny, texts, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        gather(tiny, Stop(texts, 1), tmp_path, text="mistyped.jsonl")
    assert gather(tiny, texts, tmp_path, tokens=500)


def test_text_without_rows_is_refused_each_time(tiny, tmp_path):
    for _ in range(2):
        with pytest.raises(InputError, match="gave no rows"):
            gather(tiny, [[1], [2]], tmp_path)
