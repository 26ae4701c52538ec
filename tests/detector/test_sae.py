"""The dictionary's arithmetic, the columns scoring takes from it, and the check that it fits its rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundwire.dictionary import Dictionary
from groundwire.errors import DictionaryError
from groundwire.sae import check_fit, load_dictionary, reconstruction, save_dictionary

WIDTH, LATENTS = 6, 11


def whole(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Small whole numbers: sums and products of them are exact in float32, so equality can be asked for."""
    return torch.randint(-4, 5, shape, generator=generator).float()


def make(seed: int, activation: str = "jumprelu", **changes: object) -> Dictionary:
    g = torch.Generator().manual_seed(seed)
    return Dictionary(
        encoder=whole(g, LATENTS, WIDTH),
        encoder_bias=whole(g, LATENTS),
        decoder=whole(g, LATENTS, WIDTH),
        decoder_bias=whole(g, WIDTH),
        activation=activation,
        k=3 if activation == "topk" else None,
        threshold=whole(g, LATENTS) if activation in ("jumprelu", "batchtopk", "gated") else None,
        **changes,
    )


seeds = st.integers(0, 10_000)
ids = st.lists(st.integers(0, LATENTS - 1), max_size=LATENTS)
scales = st.sampled_from([0.25, 1.0, 4.0])


@given(seed=seeds, ids=ids, scale=scales, subtract=st.booleans())
def test_selected_pre_activations_are_the_columns_of_all(seed, ids, scale, subtract):
    for activation in ("relu", "topk", "jumprelu"):
        dictionary = make(seed, activation, input_scale=scale, subtract_decoder_bias=subtract)
        rows = whole(torch.Generator().manual_seed(seed + 1), 5, WIDTH)
        assert torch.equal(dictionary.select(ids)(rows), dictionary.pre_activations(rows)[:, ids])


@given(seed=seeds, ids=ids, scale=scales, subtract=st.booleans())
def test_selected_activations_are_the_columns_of_all(seed, ids, scale, subtract):
    for activation in ("relu", "batchtopk", "jumprelu", "gated"):
        dictionary = make(seed, activation, input_scale=scale, subtract_decoder_bias=subtract)
        rows = whole(torch.Generator().manual_seed(seed + 1), 5, WIDTH)
        assert torch.equal(dictionary.select(ids, "post")(rows), dictionary.encode(rows)[:, ids])


@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu"])
@given(seed=seeds)
def test_what_was_saved_encodes_alike(tmp_path_factory, activation, seed):
    folder = tmp_path_factory.mktemp("sae")
    dictionary = make(seed, activation, hookpoint="model.layers.3", model="tiny", metadata={"training_tokens": 7})
    save_dictionary(dictionary, folder)
    loaded = load_dictionary(folder)
    rows = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(loaded.encode(rows), dictionary.encode(rows))
    assert torch.equal(loaded.decode(loaded.encode(rows)), dictionary.decode(dictionary.encode(rows)))
    assert (loaded.hookpoint, loaded.model, loaded.activation) == ("model.layers.3", "tiny", activation)
    assert loaded.metadata["training_tokens"] == 7


@given(seed=seeds, scale=scales, subtract=st.booleans())
def test_saving_folds_the_input_scale(tmp_path_factory, seed, scale, subtract):
    folder = tmp_path_factory.mktemp("sae")
    dictionary = make(seed, input_scale=scale, subtract_decoder_bias=subtract)
    save_dictionary(dictionary, folder)
    loaded, rows = load_dictionary(folder), whole(torch.Generator().manual_seed(seed), 4, WIDTH)
    assert loaded.input_scale == 1
    assert torch.equal(loaded.encode(rows), dictionary.encode(rows))
    assert torch.equal(loaded.decode(loaded.encode(rows)), dictionary.decode(dictionary.encode(rows)))


def test_equations_by_hand():
    dictionary = Dictionary(
        encoder=torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        encoder_bias=torch.tensor([0.5, -1.0]),
        decoder=torch.tensor([[1.0, 1.0], [0.0, 1.0]]),
        decoder_bias=torch.tensor([1.0, 2.0]),
        activation="jumprelu",
        threshold=torch.tensor([2.5, 0.0]),
        input_scale=2.0,
        subtract_decoder_bias=True,
    )
    rows = torch.tensor([[1.5, 2.0], [2.0, 0.0]])
    assert dictionary.pre_activations(rows).tolist() == [[2.5, 3.0], [3.5, -5.0]]
    assert dictionary.encode(rows).tolist() == [[0.0, 3.0], [3.5, 0.0]]  # a value at its threshold does not fire
    assert dictionary.decode(dictionary.encode(rows)).tolist() == [[0.5, 2.5], [2.25, 2.75]]


def test_topk_keeps_the_largest_and_never_a_negative():
    dictionary = replace(make(0, "topk"), encoder=-torch.ones(LATENTS, WIDTH), encoder_bias=torch.arange(LATENTS) * 1.0)
    active = dictionary.encode(torch.full((1, WIDTH), 1.5))[0]
    assert active.nonzero().flatten().tolist() == [10]
    assert active[10] == 1.0


def test_activations_of_single_topk_latents_are_refused():
    with pytest.raises(DictionaryError, match="pre-activations"):
        make(0, "topk").select([1], "post")


@pytest.mark.parametrize("bad", [[-1], [LATENTS]])
def test_unknown_features_are_refused(bad):
    with pytest.raises(DictionaryError, match=f"0 to {LATENTS - 1}"):
        make(0).select(bad)


def test_half_precision_rows_give_float32():
    dictionary = make(0)
    rows = whole(torch.Generator(), 2, 3, WIDTH)
    assert dictionary.select([0, 2])(rows.bfloat16()).dtype == torch.float32
    assert torch.equal(dictionary.select([0, 2])(rows.half()), dictionary.select([0, 2])(rows))


def test_rows_of_another_model_are_refused():
    for use in (make(0).encode, make(0).select([0])):
        with pytest.raises(DictionaryError, match=r"rows of width 9[\s\S]*6"):
            use(torch.zeros(1, 9))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder": torch.full((LATENTS, WIDTH), float("nan"))}, "NaN"),
        ({"decoder": torch.zeros(WIDTH, LATENTS)}, "shape"),
        ({"decoder_bias": torch.zeros(WIDTH + 1)}, "shape"),
        ({"threshold": None}, "without thresholds"),
        ({"activation": "topk", "k": 0}, "k = 0"),
        ({"activation": "topk", "k": LATENTS + 1}, f"1 to {LATENTS}"),
        ({"input_scale": 0.0}, "scale"),
    ],
)
def test_impossible_dictionaries_are_refused(change, says):
    with pytest.raises(DictionaryError, match=says):
        replace(make(0), **change)


# --- fit -------------------------------------------------------------------------------------------------------------


def sparse_world(*, scale: float = 1.0, subtract: bool = False) -> tuple[Dictionary, torch.Tensor]:
    """Rows that are few of 32 orthogonal directions about a centre, and the dictionary that knows them."""
    g = torch.Generator().manual_seed(5)
    directions = torch.linalg.qr(torch.randn(32, 32, generator=g))[0]
    centre = torch.randn(32, generator=g) * 2
    latents = torch.rand(400, 32, generator=g) * 3 * (torch.rand(400, 32, generator=g) < 0.15)
    dictionary = Dictionary(
        encoder=directions,
        encoder_bias=torch.zeros(32) if subtract else -directions @ centre,
        decoder=directions,
        decoder_bias=centre,
        activation="relu",
        input_scale=scale,
        subtract_decoder_bias=subtract,
        hookpoint="model.layers.4",
        model="tiny",
    )
    return dictionary, (latents @ directions + centre) / scale


def test_a_fitting_dictionary_passes_and_is_measured():
    dictionary, rows = sparse_world()
    found = check_fit(dictionary, rows)
    assert found.fvu < 1e-6
    assert 0 <= found.dead < 0.1
    assert reconstruction(dictionary, rows).fvu == found.fvu


def test_measures_count_what_fires():
    dictionary, rows = sparse_world()
    silent = replace(dictionary, encoder_bias=torch.full((32,), -1e6))
    found = reconstruction(silent, rows)
    assert (found.l0, found.dead) == (0, 1)
    assert found.fvu > 1


def test_wrong_decoder_bias_reading_is_named():
    dictionary, rows = sparse_world(subtract=True)
    with pytest.raises(DictionaryError, match="subtract the decoder bias"):
        check_fit(replace(dictionary, subtract_decoder_bias=False), rows)


def test_missing_input_scale_is_named():
    dictionary, rows = sparse_world(scale=0.01)
    scale = 32**0.5 / float(rows.norm(dim=-1).mean())
    trained_scaled = replace(  # as SAEs on normalised rows are: mean norm sqrt(d_model)
        dictionary,
        input_scale=1.0,
        decoder=dictionary.decoder,
        encoder_bias=dictionary.encoder_bias * scale / 0.01,
        decoder_bias=dictionary.decoder_bias * scale / 0.01,
    )
    with pytest.raises(DictionaryError, match=r"input_scale=0\.0"):
        check_fit(trained_scaled, rows)
    assert check_fit(replace(trained_scaled, input_scale=scale), rows).fvu < 1e-6


def test_attention_sinks_are_named():
    dictionary, rows = sparse_world()
    rows[0] = -1000 * rows[0]
    with pytest.raises(DictionaryError, match="leave out 1 rows of outsize norm"):
        check_fit(dictionary, rows)


def test_another_layer_is_named_with_what_was_expected():
    dictionary, rows = sparse_world()
    other = torch.randn(400, 32, generator=torch.Generator().manual_seed(9)) * rows.std()
    with pytest.raises(DictionaryError, match=r"another layer or model[\s\S]*model\.layers\.4 of tiny"):
        check_fit(dictionary, other, max_fvu=0.3)


@pytest.mark.parametrize("rows", [torch.zeros(8, 32), torch.full((8, 32), float("nan")), torch.zeros(1, 32)])
def test_rows_nothing_can_be_told_from_are_refused(rows):
    with pytest.raises(DictionaryError):
        check_fit(sparse_world()[0], rows)
