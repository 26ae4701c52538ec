"""Taps, on small modules that are built as vLLM builds its models; the real ones are in tests/vllm."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from groundwire.engines.vllm.tap import AuxTap, OpTap, layer_of, layers_of, open_tap
from groundwire.errors import CaptureError


class Layer(nn.Module):
    """Gives hidden states and a residual that is yet to be added, or their sum."""

    def __init__(self, number: int, *, pair: bool) -> None:
        super().__init__()
        self.number, self.pair = number, pair

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None = None):
        return (hidden + self.number, hidden * 2) if self.pair else hidden + self.number


class Model(nn.Module):
    def __init__(self, *, pair: bool) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList(Layer(i, pair=pair) for i in range(3))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.model.layers:
            found = layer(hidden)
            hidden = sum(found) if isinstance(found, tuple) else found
        return hidden


def tap_of(model: nn.Module, hookpoint: str = "model.layers.1"):
    return open_tap(
        SimpleNamespace(model=model), hookpoint, tokens=16, width=4, dtype=torch.float32, device=torch.device("cpu")
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("pair", [False, True])
def test_the_residual_stream_after_the_layer_is_copied(pair, compiled):
    model = Model(pair=pair)
    tap = tap_of(model)
    assert isinstance(tap, OpTap)
    run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    for count in (5, 3):
        hidden = torch.randn(count, 4)
        first, second = model.model.layers[0], model.model.layers[1]
        expected = hidden
        for layer in (first, second):
            found = type(layer).forward(layer, expected)
            expected = sum(found) if isinstance(found, tuple) else found
        run(hidden)
        assert torch.equal(tap.rows(None, count), expected)


def test_a_model_that_gives_hidden_states_is_asked_to():
    model, asked = Model(pair=True), []
    model.set_aux_hidden_state_layers = asked.append
    runner = SimpleNamespace(model=model)
    tap = open_tap(runner, "model.layers.1", tokens=16, width=4, dtype=torch.float32, device="cpu")
    assert isinstance(tap, AuxTap)
    assert (asked, runner.use_aux_hidden_state_outputs) == ([(2,)], True)
    states = [torch.arange(8.0).reshape(4, 2)]
    assert torch.equal(tap.rows(SimpleNamespace(aux_hidden_states=states), 3), states[0][:3])
    with pytest.raises(CaptureError, match="gave no hidden states"):
        tap.rows(SimpleNamespace(aux_hidden_states=None), 3)


@pytest.mark.parametrize(("hookpoint", "layer"), [("model.layers.18", 18), ("transformer.h.0", 0), ("layers.3", 3)])
def test_hookpoints_are_layers(hookpoint, layer):
    assert layer_of(hookpoint) == layer


@pytest.mark.parametrize("hookpoint", ["model.layers.18.mlp", "lm_head", ""])
def test_other_hookpoints_are_refused(hookpoint):
    with pytest.raises(CaptureError, match=r"model\.layers\.18: vLLM gives no other"):
        layer_of(hookpoint)


def test_a_layer_that_the_model_has_not_is_refused():
    with pytest.raises(CaptureError, match="3 layers"):
        tap_of(Model(pair=True), "model.layers.3")
    with pytest.raises(CaptureError, match="not where they are looked for"):
        layers_of(nn.Linear(1, 1))
