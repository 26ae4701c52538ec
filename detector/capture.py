"""Reads a model's residual stream while it runs. The only file that registers hooks.

`capture(model, "model.layers.18")` is a context manager: inside it `Capture.run` makes a forward pass and returns what
that submodule gave; the hook is removed on exit whatever happens. With `stop=True` the pass ends at the
hookpoint: later layers and the language-model head are not computed (caches of the earlier layers are filled).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundwire.adapter import Adapter
from groundwire.errors import CaptureError


class PassEnds(Exception):
    """Leaves a forward pass from within: what was wanted of it is there."""


class Capture:
    """Runs forward passes in one `capture` context and reads the hookpoint's output."""

    def __init__(self, hookpoint: str, stop: bool, learn: bool = False) -> None:
        self.hookpoint, self.stop, self.learn = hookpoint, stop, learn
        self._rows: Any = None

    def run(
        self, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> tuple[Float[Tensor, "batch tokens d"], Any]:
        """Call `forward(*args, **kwargs)`; return the captured rows and its output (None where the pass was stopped).

        The rows are `[batch, tokens, d_model]` in the model's own dtype. Raises CaptureError where the hookpoint was
        not reached (nothing captured must never look like nothing found) or gives anything but such rows.
        """
        self._rows, output = None, None
        # Here, not around the context: a caller may yield inside it.
        with suppress(PassEnds), torch.inference_mode(not self.learn):
            output = forward(*args, **kwargs)
        if self._rows is None:
            raise CaptureError(
                f"the forward pass never reached {self.hookpoint!r}",
                expected="every pass runs the hookpoint's module",
                remedy="check that the hookpoint belongs to the decoder and that the model is not compiled or fused",
            )
        if not isinstance(self._rows, Tensor) or self._rows.ndim != 3:
            shape = tuple(self._rows.shape) if isinstance(self._rows, Tensor) else type(self._rows).__name__
            raise CaptureError(
                f"the output of {self.hookpoint!r} is {shape}",
                expected="one tensor [batch, tokens, d_model]",
                remedy="choose a decoder layer as the hookpoint",
            )
        return self._rows, output

    def _hook(self, module: nn.Module, args: Any, output: Any) -> None:
        self._rows = output[0] if isinstance(output, tuple) else output
        if self.stop:
            raise PassEnds


def run_until_it_ends(forward: Callable[..., Any], **inputs: Any) -> None:
    """Make a forward pass that something within it leaves by `PassEnds`.

    Raises CaptureError where nothing did: the pass went on past what was wanted, or never came there.
    """
    try:
        with torch.inference_mode():
            forward(**inputs)
    except PassEnds:
        return
    raise CaptureError(
        "the forward pass never reached where it was to end",
        expected="every pass runs the attention of each layer up to the hookpoint",
        remedy="check that the hookpoint belongs to the decoder and that the model is not compiled or fused",
    )


def find_module(model: nn.Module, hookpoint: str) -> nn.Module:
    """The submodule at the dotted path `hookpoint`. Raises CaptureError naming near paths where there is none."""
    modules = dict(model.named_modules())
    if hookpoint in modules and hookpoint:
        return modules[hookpoint]
    blocks = [name for name in modules if name.rsplit(".", 1)[-1].isdigit()]
    raise CaptureError(
        f"the model has no submodule {hookpoint!r}",
        expected=f"a dotted path such as {', '.join(blocks[:1] + blocks[-1:]) or 'model.layers.0'}",
        remedy="pass hookpoint=... as model.named_modules() spells it",
    )


@contextmanager
def capture(model: nn.Module, hookpoint: str, *, stop: bool = False, learn: bool = False) -> Iterator[Capture]:
    """Hook `hookpoint` for the length of the context.

    hookpoint: dotted submodule path; its output (or the first item of its output tuple) is `[batch, tokens, d_model]`.
    stop: end each forward pass at the hookpoint. learn: keep what gradients need.
    """
    seen = Capture(hookpoint, stop, learn)
    handle = find_module(model, hookpoint).register_forward_hook(seen._hook)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def adapted(model: nn.Module, adapter: Adapter | None) -> Iterator[None]:
    """For the length of the context, linear layers give what `adapter` adds besides their own; None adds nothing.

    Raises CaptureError, before any pass, where the model lacks a layer that the adapter changes, or has another there.
    """
    if adapter is None:
        yield
        return
    handles, modules = [], dict(model.named_modules())
    try:
        for path, (a, b) in adapter.weights.items():
            module = modules.get(path) or find_module(model, path)
            _check_fits(path, module, a, b)
            handles.append(module.register_forward_hook(_added(a, b, adapter.scale)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_fits(path: str, module: nn.Module, a: Tensor, b: Tensor) -> None:
    own = (getattr(module, "in_features", a.shape[1]), getattr(module, "out_features", b.shape[0]))
    if own != (a.shape[1], b.shape[0]):
        raise CaptureError(
            f"an adapter of {a.shape[1]} inputs and {b.shape[0]} outputs for {path!r}",
            expected=f"{own[0]} inputs and {own[1]} outputs",
            remedy="load the model that the adapter was trained on",
        )


def _added(a: Tensor, b: Tensor, scale: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    wide = (b * scale).T

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        low = args[0].reshape(-1, args[0].shape[-1]).to(a.dtype) @ a.T
        return torch.addmm(output.reshape(-1, output.shape[-1]), low.to(output.dtype), wide).view_as(output)

    return hook


@contextmanager
def substitute(model: nn.Module, hookpoint: str, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """For the length of the context, later layers see `function(rows)` instead of the hookpoint's output `rows`.

    function: `[batch, tokens, d_model]` to the same shape; for interventions such as a dictionary's reconstruction.
    """

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (function(output[0]), *output[1:])
        return function(output)

    handle = find_module(model, hookpoint).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
