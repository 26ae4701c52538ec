"""8-bit linear layers: close to the float ones, the same for a token whatever stands beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from groundwire.detector import Detector
from groundwire.engines.base import Asked
from groundwire.engines.int8 import Int8Linear
from groundwire.engines.reader import load_reader
from groundwire.engines.replay import PackedReplay
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import InputError, ModelError
from groundwire.types import Example
from tests.detector.tiny import random_scorer, tiny_engine, user


@pytest.mark.parametrize("bias", [True, False])
def test_products_are_close(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias).requires_grad_(False)
    x = torch.randn(2, 40, 64) * torch.logspace(-3, 3, 40)[:, None]  # tokens of any size
    expected, found = linear(x), Int8Linear(linear)(x)
    assert found.shape == expected.shape
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(error.max()) < 0.03
    assert float(error.max()) > 0


def test_a_token_is_the_same_in_any_company() -> None:
    torch.manual_seed(0)
    layer, x = Int8Linear(nn.Linear(64, 48).requires_grad_(False)), torch.randn(30, 64)
    x[3] *= 1000
    assert torch.equal(torch.cat([layer(x[:7]), layer(x[7:8]), layer(x[8:])]), layer(x))


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_what_is_no_number_stays_none(odd: float) -> None:
    x = torch.zeros(2, 64)
    x[0, 0] = odd
    found = Int8Linear(nn.Linear(64, 48))(x)
    assert not bool(found[0].isfinite().any())
    assert bool(found[1].isfinite().all())


def test_the_decoder_is_replaced_and_the_head_is_not(tiny_llama_folder: Path) -> None:
    reader = load_reader(tiny_llama_folder, dtype="int8")
    kinds = {name: type(m) for name, m in reader.model.named_modules() if isinstance(m, nn.Linear | Int8Linear)}
    assert {name for name, kind in kinds.items() if kind is nn.Linear} == {"lm_head"}
    assert len(kinds) == 1 + 4 * 7
    engine = TransformersEngine(reader, "model.layers.2")
    assert (engine.dtype, reader.model.dtype) == ("int8", torch.float32)
    exact, scorer = tiny_engine(tiny_llama_folder), random_scorer(engine, "window")
    asked = [Asked([5, 6, 7, 8], [[9, 10, 11], [12]])]
    assert isinstance(engine._replaying, PackedReplay)
    for found, expected in zip(engine.replay(asked, scorer)[0], exact.replay(asked, scorer)[0], strict=True):
        assert found.rows == expected.rows
        assert found.logit == pytest.approx(expected.logit, abs=0.5)


def test_int8_is_refused_where_it_is_not_meant_for(tiny_llama_folder: Path) -> None:
    with pytest.raises(InputError, match="dtype int8 on meta"):
        load_reader(tiny_llama_folder, dtype="int8", device="meta")


def test_a_model_without_such_layers_is_refused(tiny_gpt2_folder: Path) -> None:
    with pytest.raises(ModelError, match="no linear layers"):
        load_reader(tiny_gpt2_folder, dtype="int8")


@pytest.mark.model
@pytest.mark.parametrize(("dtype", "most"), [("int8", 0.08), ("bfloat16", 0.03)])
def test_the_default_detector_scores_alike(dtype: str, most: float) -> None:
    passage = "Passage 1: The Tidewater Bridge opened to traffic on 14 May 1931. It is 642 metres long."
    answers = ("It opened in 1931 and is 642 metres long.", "It opened in 1950 and was built by Christopher Wren.")
    rows = [Example(str(i), user(f"{passage} Question: When did it open?"), a) for i, a in enumerate(answers)]
    found, expected = (Detector.from_pretrained(dtype=d).score_batch(rows) for d in (dtype, "float32"))
    for a, b in zip(found, expected, strict=True):
        assert a.score == pytest.approx(b.score, abs=most)
