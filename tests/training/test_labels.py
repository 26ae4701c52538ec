from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from groundwire.sae import Dictionary
from groundwire.training import labels
from groundwire.training.labels import EXAMPLES, TOP_ROWS, label_latents

# Token 300 + i has the direction e_i; latent i reads direction i and writes the unembedding of token 320 + i.
FIRES, PROMOTES = 300, 320


@pytest.fixture(scope="module")
def dictionary(tiny):
    unembedding = tiny.model.get_output_embeddings().weight.detach().float()
    decoder = (unembedding - unembedding.mean(0))[PROMOTES : PROMOTES + 3] * 10
    return Dictionary(torch.eye(32)[:3], torch.zeros(3), decoder, torch.zeros(32), "relu")


@pytest.fixture
def shards(tmp_path):
    """Three sequences over two shards: the planted token stands once in each, ever stronger, among weak noise."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for index, numbers in enumerate(((0, 1), (2,))):
        rows = torch.rand(30 * len(numbers), 32, generator=generator) * 0.1
        tokens = torch.randint(10, 200, (len(rows),), generator=generator, dtype=torch.int32)
        for i, number in enumerate(numbers):
            for latent in range(3):
                at = 30 * i + 2 + 9 * latent
                rows[at, latent], tokens[at] = 5.0 + number, FIRES + latent
        sequences = torch.tensor(numbers, dtype=torch.int32).repeat_interleave(30)
        paths.append(tmp_path / f"shard-{index:05d}.safetensors")
        save_file({"rows": rows.half(), "tokens": tokens, "sequences": sequences}, paths[-1])
    return paths


def label(dictionary, ids, shards, tiny):
    return label_latents(dictionary, ids, shards, tiny.model, tiny.tokenizer)


@pytest.mark.parametrize("chunk", [7, 8192])
def test_a_planted_latent_gets_its_token_and_what_it_promotes(tiny, dictionary, shards, monkeypatch, chunk):
    monkeypatch.setattr(labels, "_CHUNK", chunk)
    found = label(dictionary, [2, 0], shards, tiny)
    assert list(found) == [2, 0]
    for latent, entry in found.items():
        token = tiny.tokenizer.decode([FIRES + latent])
        assert entry["top_tokens"][0] == token
        assert entry["promotes"][0] == tiny.tokenizer.decode([PROMOTES + latent])
        assert [e["token"] for e in entry["examples"][:3]] == [token] * 3
        assert [e["activation"] for e in entry["examples"][:3]] == [7.0, 6.0, 5.0]
        assert len(entry["examples"]) == EXAMPLES
        assert entry["label"].startswith(f"“{token.strip()}”")


def test_the_context_stays_within_the_sequence(tiny, dictionary, shards):
    """Latent 0 fires on the third token of each sequence: two tokens stand before it, not the text before that."""
    from safetensors.torch import load_file

    first, second = load_file(shards[0])["tokens"].split(30)
    strongest_of_first_shard = label(dictionary, [0], shards, tiny)[0]["examples"][1]
    assert strongest_of_first_shard["before"] == tiny.tokenizer.decode(second[:2].tolist())
    assert strongest_of_first_shard["after"] == tiny.tokenizer.decode(second[3:6].tolist())
    last = label(dictionary, [0], shards, tiny)[0]["examples"][2]
    assert last["before"] == tiny.tokenizer.decode(first[:2].tolist())


def test_without_text_a_latent_is_named_by_what_it_promotes(tiny, dictionary):
    entry = label(dictionary, [1], [], tiny)[1]
    assert entry["top_tokens"] == entry["examples"] == []
    assert entry["promotes"][0] == tiny.tokenizer.decode([PROMOTES + 1])
    assert entry["label"].startswith("→ “")


def test_little_text_gives_as_many_rows_as_there_are(tiny, dictionary, tmp_path):
    """Fewer rows than are asked for: nothing is made up, and the result can be written as JSON."""
    path, count = tmp_path / "shard-00000.safetensors", 3
    assert count < TOP_ROWS
    numbers = torch.arange(count, dtype=torch.int32)
    save_file({"rows": torch.rand(count, 32), "tokens": numbers + FIRES, "sequences": numbers}, path)
    entry = label(dictionary, [0], [path], tiny)[0]
    assert len(entry["examples"]) == count
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


def test_white_space_tokens_are_shown():
    assert labels._label(["\n", "  ", ""], ["\n\n"]) == "“⏎”, “␣␣”, “∅” → “⏎⏎”"
