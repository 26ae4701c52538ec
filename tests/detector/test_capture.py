"""Hooks: they read what the model computes, are always removed, and never mistake nothing for something."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache

from groundwire.adapter import Adapter
from groundwire.capture import adapted, capture, find_module, substitute
from groundwire.errors import CaptureError

HOOKPOINT = "model.layers.2"
IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def model(tiny_llama_folder) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_llama_folder).eval()


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_rows_are_the_hidden_states_after_that_layer(model):
    with capture(model, HOOKPOINT) as hook:
        rows, output = hook.run(model, input_ids=IDS, output_hidden_states=True)
    assert torch.equal(rows, output.hidden_states[3])
    assert output.logits.shape[:2] == IDS.shape


def test_a_layer_that_gives_a_tuple_is_read_alike(tiny_gpt2_folder):
    gpt2 = AutoModelForCausalLM.from_pretrained(tiny_gpt2_folder).eval()
    with capture(gpt2, "transformer.h.1") as hook:
        rows, output = hook.run(gpt2, input_ids=IDS, output_hidden_states=True)
    assert torch.equal(rows, output.hidden_states[2])

    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
            return x + 1, "more"

    pair = nn.Sequential(Pair())
    with capture(pair, "0") as hook:
        rows, output = hook.run(pair, torch.zeros(1, 2, 3))
    assert torch.equal(rows, torch.ones(1, 2, 3))
    assert output[1] == "more"
    with substitute(pair, "0", lambda rows: rows * 5):
        changed, more = pair(torch.zeros(1, 2, 3))
    assert torch.equal(changed, torch.full((1, 2, 3), 5.0))
    assert more == "more"


def test_stop_ends_the_pass_at_the_hookpoint(model):
    later = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: later.append(name))
        for name, module in model.named_modules()
        if name in ("model.layers.3", "model.norm", "lm_head")
    ]
    cache = DynamicCache(config=model.config)
    try:
        with capture(model, HOOKPOINT, stop=True) as hook:
            rows, output = hook.run(model, input_ids=IDS, past_key_values=cache, use_cache=True)
        assert (later, output) == ([], None)
        with capture(model, HOOKPOINT) as hook:
            whole, _ = hook.run(model, input_ids=IDS)
        assert len(later) == 3
    finally:
        for handle in handles:
            handle.remove()
    assert torch.equal(rows, whole)
    assert [cache.get_seq_length(layer) for layer in range(4)] == [5, 5, 5, 0]


def test_a_stopped_pass_leaves_caches_that_a_next_pass_continues(model):
    cache = DynamicCache(config=model.config)
    with capture(model, HOOKPOINT, stop=True) as hook:
        hook.run(model, input_ids=IDS[:, :3], past_key_values=cache, use_cache=True)
        rest, _ = hook.run(model, input_ids=IDS[:, 3:], past_key_values=cache, use_cache=True)
        whole, _ = hook.run(model, input_ids=IDS)
    torch.testing.assert_close(rest, whole[:, 3:], rtol=1e-4, atol=1e-4)


def test_the_hook_is_removed_whatever_happens(model):
    before = hooks(model)
    with capture(model, HOOKPOINT):
        assert hooks(model) == before + 1
    assert hooks(model) == before
    with pytest.raises(IndexError), capture(model, HOOKPOINT) as hook:
        hook.run(model, input_ids=torch.tensor([[10**6]]))
    with pytest.raises(ZeroDivisionError), substitute(model, HOOKPOINT, lambda rows: rows * (1 // 0)):
        model(input_ids=IDS)
    assert hooks(model) == before


def test_rows_need_no_gradient_and_the_callers_mode_is_its_own(model):
    with capture(model, HOOKPOINT, stop=True) as hook:
        rows, _ = hook.run(model, input_ids=IDS)
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert not rows.requires_grad


def test_a_hookpoint_that_is_not_reached_is_an_error_also_after_a_pass_that_reached_it(model):
    with capture(model, HOOKPOINT) as hook:
        hook.run(model, input_ids=IDS)
        with pytest.raises(CaptureError, match=r"never reached 'model\.layers\.2'\n  Expected: .*\n  To fix: "):
            hook.run(model.model.embed_tokens, IDS)


def test_what_is_not_rows_is_refused(model):
    with capture(model, "model") as hook, pytest.raises(CaptureError, match=r"'model' is BaseModelOutput.*\n.*d_model"):
        hook.run(model, input_ids=IDS)
    flat = nn.Sequential(nn.Flatten())
    with capture(flat, "0") as hook, pytest.raises(CaptureError, match=r"'0' is \(1, 6\)\n"):
        hook.run(flat, torch.zeros(1, 2, 3))


def test_a_module_is_found_by_its_path_or_the_message_names_some(model):
    assert find_module(model, HOOKPOINT) is model.model.layers[2]
    for wrong in ("model.layers.9", "layers.2", ""):
        with pytest.raises(CaptureError, match=rf"(?s)submodule '{wrong}'.*model\.layers\.0, model\.layers\.3"):
            find_module(model, wrong)
    with pytest.raises(CaptureError, match=r"such as model\.layers\.0\n"):
        find_module(nn.Linear(1, 1), "x")


def test_later_layers_see_what_was_substituted(model):
    plain = model(input_ids=IDS).logits
    with substitute(model, HOOKPOINT, lambda rows: rows.clone()):
        assert torch.equal(model(input_ids=IDS).logits, plain)
    with substitute(model, HOOKPOINT, torch.zeros_like), capture(model, "model.layers.3") as hook:
        rows, output = hook.run(model, input_ids=IDS)
    assert not torch.equal(output.logits, plain)
    torch.testing.assert_close(rows, torch.zeros_like(rows))
    assert torch.equal(model(input_ids=IDS).logits, plain)


def plus(model: nn.Module, path: str, size: float) -> Adapter:
    """An adapter that adds `size` times the sum of its inputs to every output of one layer."""
    linear = model.get_submodule(path)
    ones = torch.ones(1, linear.in_features), torch.ones(linear.out_features, 1)  # type: ignore[arg-type]
    return Adapter({path: ones}, alpha=size)


def test_an_adapter_adds_to_what_its_layers_give_and_no_longer(model):
    path = "model.layers.1.mlp.down_proj"
    before, x = hooks(model), torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 64)
    plain = model.get_submodule(path)(x)
    with adapted(model, plus(model, path, 0.5)):
        found = model.get_submodule(path)(x)
        assert hooks(model) == before + 1
    torch.testing.assert_close(found, plain + 0.5 * x.sum(-1, keepdim=True))
    assert hooks(model) == before
    assert torch.equal(model.get_submodule(path)(x), plain)
    with adapted(model, None):
        assert hooks(model) == before


def test_an_adapter_is_off_also_after_a_pass_that_failed(model):
    before, new = hooks(model), Adapter.new(model, model.model.layers, 2, 4.0)
    broken = replace(new, weights={**new.weights, "model.layers.3.mlp.up_proj": (torch.ones(2, 32), torch.ones(64, 3))})
    with pytest.raises(RuntimeError, match="shapes"), adapted(model, broken):
        model(input_ids=IDS)
    with pytest.raises(IndexError), adapted(model, new):
        model(input_ids=torch.tensor([[10**6]]))
    assert hooks(model) == before


@pytest.mark.parametrize(
    ("path", "inputs", "words"),
    [
        ("model.layers.9.mlp.up_proj", 32, r"no submodule 'model\.layers\.9\.mlp\.up_proj'"),
        ("model.layers.3.mlp.up_proj", 48, r"48 inputs and 64 outputs for 'model\.layers\.3\.mlp"),
    ],
)
def test_an_adapter_of_another_model_is_refused_and_leaves_no_hook(model, path, inputs, words):
    before, new = hooks(model), Adapter.new(model, model.model.layers, 2, 4.0)
    other = replace(new, weights={**new.weights, path: (torch.ones(2, inputs), torch.ones(64, 2))})
    with pytest.raises(CaptureError, match=words), adapted(model, other):
        pass
    assert hooks(model) == before
