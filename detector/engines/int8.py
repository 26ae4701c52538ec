"""Linear layers in 8-bit whole numbers, for CPUs that multiply these faster: weights by output, inputs by token.

Every token has a scale of its own, so what shares its batch does not change it (LLM.int8, Dettmers et al. 2022,
arXiv 2208.07339, sec. 2.1, "vector-wise", without its outlier part).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from groundwire.errors import ModelError

LARGEST = 127.0


class Int8Linear(nn.Module):
    """`linear` with weights rounded to 8 bits, symmetric, one scale an output."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = _scale(linear.weight)
        self.register_buffer("weight", (linear.weight / scale).round_().to(torch.int8).t().contiguous())
        self.register_buffer("scale", scale[:, 0].contiguous())
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows out"]:
        """Products in whole numbers; their scales are multiplied back."""
        rows = x.reshape(-1, x.shape[-1])
        scale = _scale(rows)
        products = torch._int_mm((rows / scale).round_().to(torch.int8), self.weight)
        out = products.to(x.dtype).mul_(scale).mul_(self.scale)
        if self.bias is not None:
            out += self.bias
        return out.unflatten(0, x.shape[:-1])


def to_int8(model: Any) -> None:
    """Replace, in place, every linear layer of the decoder's layers; embeddings and the head stay.

    Raises ModelError where there is none to replace.
    """
    head, found = model.get_output_embeddings(), False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head:
                setattr(parent, name, Int8Linear(child))
                found = True
    if not found:
        raise ModelError(
            f"a {type(model).__name__} has no linear layers of the common kind",
            expected="layers that can be rounded to 8 bits",
            remedy="load it in another dtype",
        )


def _scale(rows: Float[Tensor, "rows d"]) -> Float[Tensor, "rows 1"]:
    """What each row is divided by to lie within the 8 bits; NaN and infinity stay visible in it."""
    return rows.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny) / LARGEST
