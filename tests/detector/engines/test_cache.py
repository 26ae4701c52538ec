"""Keys and values that grow in place: what the library's own layer would hold, without copying it for every token."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, MistralConfig

from groundwire.engines.cache import ROOM, GrowingLayer, growing_cache, growing_layers


def pieces(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, n, 4, generator=generator) for n in lengths]


@pytest.mark.parametrize("lengths", [(5, 1, 1, 1), (1, ROOM - 1, 1, 1, 1), (3, ROOM, ROOM, 1)])
def test_it_holds_what_was_put_in(lengths: tuple[int, ...]) -> None:
    layer, seen = GrowingLayer(), pieces(*lengths)
    for i, piece in enumerate(seen, 1):
        keys, values = layer.update(piece, -piece)
        torch.testing.assert_close(keys, torch.cat(seen[:i], 2), atol=0, rtol=0)
        torch.testing.assert_close(values, -keys, atol=0, rtol=0)
    assert layer.get_seq_length() == sum(lengths)


def test_a_token_is_written_where_room_was_kept() -> None:
    layer, (first, second) = GrowingLayer(), pieces(5, 1)
    before, _ = layer.update(first, first)
    after, _ = layer.update(second, second)
    assert before.data_ptr() == after.data_ptr()


def test_after_a_selection_of_rows_it_grows_on_from_them() -> None:
    layer, (first, second) = GrowingLayer(), pieces(5, 1)
    layer.update(first, first)
    layer.batch_select_indices(torch.tensor([1]))
    keys, _ = layer.update(second[:1], second[:1])
    torch.testing.assert_close(keys, torch.cat([first[1:], second[:1]], 2), atol=0, rtol=0)


def test_what_was_cut_is_gone() -> None:
    layer, (first, second) = GrowingLayer(), pieces(5, 1)
    layer.update(first, first)
    layer.cut(2)
    keys, _ = layer.update(second, second)
    torch.testing.assert_close(keys, torch.cat([first[..., 2:, :], second], 2), atol=0, rtol=0)


def test_layers_with_a_sliding_window_stay_the_library_s_own() -> None:
    sliding = MistralConfig(num_hidden_layers=2, sliding_window=4)
    assert len(growing_layers(growing_cache(LlamaConfig(num_hidden_layers=2))) or ()) == 2
    assert growing_layers(growing_cache(sliding)) is None
    assert [type(a) for a in growing_cache(sliding).layers] == [type(a) for a in DynamicCache(config=sliding).layers]


def test_joined_requests_stand_at_the_right_end() -> None:
    layer, other, (long, short) = GrowingLayer(), GrowingLayer(), pieces(5, 2)
    layer.update(short, -short)
    other.update(long, -long)
    layer.join(other, 5)
    torch.testing.assert_close(layer.keys[:2, :, 3:], short, atol=0, rtol=0)
    torch.testing.assert_close(layer.keys[2:], long, atol=0, rtol=0)
    torch.testing.assert_close(layer.values, -layer.keys, atol=0, rtol=0)
    assert not layer.keys[:2, :, :3].any()
