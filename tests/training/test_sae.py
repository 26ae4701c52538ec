from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from groundwire.errors import DictionaryError
from groundwire.sae import load_dictionary, reconstruction, save_dictionary
from groundwire.training import sae
from groundwire.training.sae import SaeConfig, SaeTrainer, _batch_top_k, _sparse_decode

D, ATOMS, ACTIVE = 16, 32, 3
SMALL = SaeConfig(latents=48, k=4, batch=128, epochs=20, learning_rate=3e-3, dead_rows=2000)


def planted_rows(count, seed=0):
    """Sums of a few of 32 fixed directions, off centre and far from unit scale."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(ATOMS, D, generator=torch.Generator().manual_seed(99)), dim=-1)
    chosen = torch.rand(count, ATOMS, generator=generator).topk(ACTIVE, dim=-1).indices
    sizes = 1 + torch.rand(count, ACTIVE, generator=generator)
    return 7 * torch.zeros(count, ATOMS).scatter_(1, chosen, sizes) @ atoms + 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    paths = []
    for i, count in enumerate((1500, 1500, 1100)):  # no multiple of the batch: rows are carried over
        paths.append(folder / f"shard-{i:05d}.safetensors")
        numbers = torch.zeros(count, dtype=torch.int32)
        save_file({"rows": planted_rows(count, i).half(), "tokens": numbers, "sequences": numbers.clone()}, paths[-1])
    return paths


def fit(shards, config=SMALL, **options):
    return SaeTrainer(config, **options).fit(shards, hookpoint="model.layers.2", model="tiny")


@pytest.fixture(scope="module")
def trained(shards):
    return fit(shards)


def test_a_planted_dictionary_is_recovered(trained):
    """Rows it was not trained on: little variance is left, about k latents fire."""
    found = reconstruction(trained.dictionary_, planted_rows(2000, seed=7))
    assert found.fvu < 0.15
    assert found.l0 == pytest.approx(SMALL.k, rel=0.25)
    assert trained.losses_[-1] < trained.losses_[0] / 3


def test_decoder_directions_have_unit_length(trained):
    torch.testing.assert_close(trained.dictionary_.decoder.norm(dim=-1), torch.ones(SMALL.latents))


def test_the_dictionary_says_where_it_belongs(trained):
    assert (trained.dictionary_.hookpoint, trained.dictionary_.model) == ("model.layers.2", "tiny")
    assert trained.dictionary_.activation == "jumprelu"


def test_the_saved_dictionary_encodes_raw_rows_as_training_did_scaled_ones(trained, tmp_path):
    save_dictionary(trained.dictionary_, tmp_path)
    loaded, rows = load_dictionary(tmp_path), planted_rows(200, seed=8)
    p, scale = {name: value.detach() for name, value in trained._p.items()}, trained._scale
    pre = (rows * scale - p["decoder_bias"]) @ p["encoder"] + p["encoder_bias"]
    latents = torch.where(pre > trained._threshold, pre, 0.0)
    assert scale != pytest.approx(1, abs=0.1)
    torch.testing.assert_close(loaded.encode(rows) * scale, latents, rtol=1e-4, atol=1e-4)
    rebuilt = (latents @ p["decoder"] + p["decoder_bias"]) / scale
    torch.testing.assert_close(loaded.decode(loaded.encode(rows)), rebuilt, rtol=1e-4, atol=1e-3)


class HalfSilenced(SaeTrainer):
    """Starts with half of the latents pushed down: some of their pre-activations are positive, none among the top."""

    def _start(self, sample):
        super()._start(sample)
        with torch.no_grad():
            self._p["encoder_bias"][: self.config.latents // 2] -= 1.0


def test_dead_latents_are_revived(shards):
    def silent(aux_weight):
        config = replace(SMALL, dead_rows=500, aux_weight=aux_weight)
        trainer = HalfSilenced(config).fit(shards, hookpoint="h", model="m")
        return reconstruction(trainer.dictionary_, planted_rows(2000, seed=7)).dead

    assert silent(0.0) > 0.25
    assert silent(SMALL.aux_weight) < 0.12


def test_the_same_seed_gives_the_same_dictionary_and_leaves_torch_alone(shards, trained):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = fit(shards)
    assert torch.get_rng_state().equal(before)
    assert again.dictionary_.encoder.equal(trained.dictionary_.encoder)
    other = fit(shards, SaeConfig(latents=48, k=4, batch=128, epochs=1, seed=1))
    assert not other.dictionary_.encoder.allclose(trained.dictionary_.encoder)


class Interrupted(SaeTrainer):
    def _step(self, rows, step, steps):
        if step == 75:
            raise KeyboardInterrupt
        super()._step(rows, step, steps)


@pytest.fixture
def interrupted(shards, tmp_path, monkeypatch):
    """A checkpoint from the middle of a run, with shards in several groups."""
    monkeypatch.setattr(sae, "CHECKPOINT_EVERY", 30)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        Interrupted(SMALL, checkpoint=checkpoint).fit(shards, hookpoint="model.layers.2", model="tiny")
    return checkpoint


def test_a_resumed_run_gives_what_an_uninterrupted_one_gives(shards, trained, interrupted):
    resumed = fit(shards, checkpoint=interrupted)
    for name in ("encoder", "encoder_bias", "decoder", "decoder_bias", "threshold"):
        torch.testing.assert_close(getattr(resumed.dictionary_, name), getattr(trained.dictionary_, name))
    assert resumed.losses_ == pytest.approx(trained.losses_)


def test_resuming_holds_where_shards_do_not_fit_into_memory_together(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(sae, "SHARDS_IN_MEMORY", 2)
    monkeypatch.setattr(sae, "CHECKPOINT_EVERY", 30)
    wanted, checkpoint = fit(shards), tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        Interrupted(SMALL, checkpoint=checkpoint).fit(shards, hookpoint="model.layers.2", model="tiny")
    torch.testing.assert_close(fit(shards, checkpoint=checkpoint).dictionary_.encoder, wanted.dictionary_.encoder)


def test_a_finished_run_takes_no_further_step(shards, tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint.safetensors"
    wanted = fit(shards, checkpoint=checkpoint)
    monkeypatch.setattr(SaeTrainer, "_step", lambda *_: pytest.fail("a step was taken"))
    assert fit(shards, checkpoint=checkpoint).dictionary_.encoder.equal(wanted.dictionary_.encoder)


@pytest.mark.parametrize("change", ["config", "rows"])
def test_a_checkpoint_of_another_run_is_refused(shards, interrupted, change):
    config = SaeConfig(latents=48, k=5, batch=128) if change == "config" else SMALL
    with pytest.raises(DictionaryError, match="another configuration or number of rows"):
        fit(shards if change == "config" else shards[:2], config, checkpoint=interrupted)


@pytest.mark.parametrize("batch", [128, 1024, 5000])
def test_every_epoch_gives_every_row_once(shards, monkeypatch, batch):
    """Until rows run short of a batch: then they wait for the next epoch."""
    monkeypatch.setattr(sae, "SHARDS_IN_MEMORY", 2)
    steps = max(1, 4100 // batch)
    trainer = SaeTrainer(SaeConfig(batch=batch))
    rows = torch.cat(list(trainer._batches(shards, steps)))
    assert len(rows) == steps * batch
    if batch < 4100:
        assert len(rows.unique(dim=0)) == len(rows)


@given(st.integers(1, 200), st.integers(1, 24), st.integers(1, 24), st.integers(0, 10**6), st.booleans())
@settings(deadline=None, max_examples=200)
def test_batch_top_k_is_exact(batch, latents, k, seed, uneven):
    """Also where the few rows that suggest the cut are not like the others."""
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randperm(batch * latents, generator=generator).float().reshape(batch, latents)
    pre = pre - float(torch.randint(batch * latents, (1,), generator=generator))  # all different, some negative
    if uneven:
        pre[:: max(1, batch // 64)] += batch * latents
    k = min(k, latents)
    mask, cut = _batch_top_k(pre, k)
    top = pre.flatten().topk(batch * k)
    wanted = torch.zeros(batch * latents, dtype=torch.bool).scatter_(0, top.indices[top.values > 0], True)
    assert mask.flatten().equal(wanted)
    assert mask.equal(pre > cut)


@given(st.integers(1, 12), st.integers(1, 10), st.floats(0, 1), st.integers(0, 10**6))
@settings(deadline=None)
def test_sparse_decode_is_the_dense_product(batch, latents, density, seed):
    """Values and gradients, with rows in which nothing fires."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, latents, generator=generator) < density
    pre = torch.randn(batch, latents, generator=generator).requires_grad_()
    decoder = torch.randn(latents, 5, generator=generator).requires_grad_()
    weight = torch.randn(batch, 5, generator=generator)
    ways = (_sparse_decode(pre, mask, decoder), (pre * mask) @ decoder)
    gradients = [torch.autograd.grad((way * weight).sum(), (pre, decoder)) for way in ways]
    torch.testing.assert_close(*ways)
    for sparse, dense in zip(*gradients, strict=True):
        torch.testing.assert_close(sparse, dense)
