"""Where the hookpoint's rows come out of vLLM's forward pass.

Models that can give hidden states of layers beside their output (vLLM's `SupportsEagle3`) are asked to: this goes
through compilation and CUDA graphs. For the others (Gemma 2 and 3, Phi) the layer is wrapped, before it is compiled,
so that an operator of our own copies the residual stream into a buffer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.errors import CaptureError

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)$")
_LAYERS = (
    "model.layers",
    "language_model.model.layers",
    "model.language_model.layers",
    "model.decoder.layers",
    "transformer.h",
    "gpt_neox.layers",
)
_BUFFERS: dict[str, Tensor] = {}  # the operator finds its buffer by name: a compiled graph holds no tensor of ours


@runtime_checkable
class Tap(Protocol):
    """Gives the rows of the pass that has just run."""

    kind: str

    def rows(self, state: Any, count: int) -> Float[Tensor, "count d"]:
        """Rows of its first `count` tokens. `state` is the runner's `execute_model_state`. Raises CaptureError."""
        ...


class AuxTap:
    """Hidden states that the model gives beside its output."""

    kind = "aux"

    def __init__(self, runner: Any, layer: int) -> None:
        runner.use_aux_hidden_state_outputs = True
        runner.model.set_aux_hidden_state_layers((layer + 1,))  # vLLM counts the embedding as layer 0

    def rows(self, state: Any, count: int) -> Float[Tensor, "count d"]:
        """See `Tap.rows`."""
        found = getattr(state, "aux_hidden_states", None)
        if not found:
            raise CaptureError(
                "vLLM's pass gave no hidden states of the hookpoint",
                expected="one tensor beside its output",
                remedy="use a release of vLLM that is listed as tested",
            )
        return found[0][:count]


class OpTap:
    """A copy of the residual stream, written by an operator inside the layer's forward."""

    kind = "op"

    def __init__(self, runner: Any, layer: int, *, tokens: int, width: int, dtype: torch.dtype, device: Any) -> None:
        self._key = f"layer {layer}"
        _BUFFERS[self._key] = torch.zeros(tokens, width, dtype=dtype, device=device)
        block = layers_of(runner.model)[layer]
        block.forward = tapped(block.forward, self._key)

    def rows(self, state: Any, count: int) -> Float[Tensor, "count d"]:
        """See `Tap.rows`."""
        return _BUFFERS[self._key][:count]


def open_tap(runner: Any, hookpoint: str, *, tokens: int, width: int, dtype: torch.dtype, device: Any) -> Tap:
    """A tap in a runner whose model is loaded and not yet compiled.

    tokens: most of one pass. width: of the residual stream. Raises CaptureError on a hookpoint that is no decoder layer
    of the model.
    """
    layer = layer_of(hookpoint)
    blocks = layers_of(runner.model)
    if layer >= len(blocks):
        raise CaptureError(
            f"hookpoint {hookpoint}", expected=f"one of the model's {len(blocks)} layers", remedy="use its own detector"
        )
    if callable(getattr(runner.model, "set_aux_hidden_state_layers", None)):
        return AuxTap(runner, layer)
    return OpTap(runner, layer, tokens=tokens, width=width, dtype=dtype, device=device)


def layer_of(hookpoint: str) -> int:
    """The number of the decoder layer whose output a hookpoint is. Raises CaptureError where it is none."""
    found = _LAYER.search(hookpoint)
    if found is None:
        raise CaptureError(
            f"hookpoint {hookpoint!r}",
            expected="the output of a decoder layer, such as model.layers.18: vLLM gives no other",
            remedy="train the detector at such a hookpoint, or use the transformers engine",
        )
    return int(found[1])


def layers_of(model: Any) -> Any:
    """The decoder layers of a vLLM model. Raises CaptureError where they are not found."""
    for path in _LAYERS:
        found = model
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    raise CaptureError(
        f"the decoder layers of {type(model).__name__} are not where they are looked for",
        expected=f"one of {', '.join(_LAYERS)}",
        remedy="serve it behind the gateway (upstream_url)",
    )


def tapped(forward: Callable[..., Any], key: str) -> Callable[..., Any]:
    """A layer's forward that leaves its residual stream in the buffer `key` as well.

    vLLM's layers give hidden states and a residual that is yet to be added, or the sum alone.
    """
    tap = _operator()

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        hidden, residual = (output[0], output[1]) if isinstance(output, tuple) else (output, None)
        tap(hidden, residual, key)
        return output

    return wrapped


def _operator() -> Any:
    """The operator, defined once a process. It says that it changes `hidden`, so that no compiler drops it."""
    global _library
    if _library is None:
        _library = torch.library.Library("groundwire", "DEF")
        _library.define("tap(Tensor(a!) hidden, Tensor? residual, str key) -> ()")
        for backend in ("CPU", "CUDA"):
            _library.impl("tap", _copy, backend)
        _library.impl("tap", lambda hidden, residual, key: None, "Meta")
    return torch.ops.groundwire.tap


def _copy(hidden: Tensor, residual: Tensor | None, key: str) -> None:
    rows = _BUFFERS[key][: hidden.shape[0]]
    if residual is None:
        rows.copy_(hidden)
    else:
        torch.add(hidden, residual, out=rows)


_library: torch.library.Library | None = None
