"""A low-rank adapter: what is added to linear layers while an answer is checked (LoRA, Hu et al. 2021,
arXiv 2106.09685).

The adapter is active on the answer's tokens only (activated LoRA, arXiv 2504.12397), so that the keys and values of
prompts are the base model's, shared and cached as without it. On disk it is PEFT's format: `adapter_config.json` and
`adapter_model.safetensors`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groundwire.errors import ArtifactError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"  # PEFT's names of tensors

Pair = tuple[Float[Tensor, "rank inputs"], Float[Tensor, "outputs rank"]]


@dataclass(frozen=True)
class Adapter:
    """`W x + scale * B (A x)` in place of `W x`.

    weights: A `[rank, inputs]` and B `[outputs, rank]` by the dotted path of the linear layer. alpha: PEFT's
    `lora_alpha`; the scale is `alpha / rank`.
    """

    weights: Mapping[str, Pair]
    alpha: float

    @property
    def rank(self) -> int:
        return next(iter(self.weights.values()))[0].shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Adapter:
        """The same adapter on another device, in another dtype."""
        moved = {path: (a.to(device, dtype), b.to(device, dtype)) for path, (a, b) in self.weights.items()}
        return replace(self, weights=moved)

    def parameters(self) -> list[Tensor]:
        """All A and B: what training changes."""
        return [part for pair in self.weights.values() for part in pair]

    def save_pretrained(self, folder: str | Path, *, base_model: str) -> None:
        """Write PEFT's two files, bfloat16. base_model: the id of the model it belongs to."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "target_modules": sorted(self.weights),
        }
        tensors = {}
        for path, (a, b) in self.weights.items():
            for name, part in ((_A, a), (_B, b)):
                tensors[_PREFIX + path + name] = part.detach().to("cpu", torch.bfloat16).contiguous()
        save_file(tensors, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Adapter:
        """Read an adapter, as float32. Raises ArtifactError where it is missing, damaged or other than plain LoRA."""
        folder = Path(folder)
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            tensors = load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise ArtifactError(
                f"no readable adapter in {folder}: {error}",
                expected=f"a folder with {CONFIG} and {WEIGHTS}, as PEFT writes them",
                remedy="restore the folder as `groundwire train reader` wrote it",
            ) from error
        weights = dict(_pairs(tensors, folder))
        if not isinstance(config, dict) or (lacking := _not_plain(config, weights, tensors)):
            raise ArtifactError(
                f"the adapter in {folder}: {lacking if isinstance(config, dict) else 'no JSON object'}",
                expected="plain LoRA of one rank: no DoRA, no rsLoRA, no biases, no rank patterns",
                remedy="train it with `groundwire train reader`, or with PEFT's LoraConfig as it is",
            )
        return cls(weights, float(config["lora_alpha"]))

    @classmethod
    def new(cls, model: nn.Module, layers: Iterable[nn.Module], rank: int, alpha: float, seed: int = 0) -> Adapter:
        """An adapter that changes nothing yet (B is 0) for every linear layer within `layers` of `model`."""
        generator = torch.Generator().manual_seed(seed)
        inside = {id(module) for layer in layers for module in layer.modules()}
        weights = {}
        for path, module in model.named_modules():
            if id(module) in inside and isinstance(module, nn.Linear):
                a = torch.randn(rank, module.in_features, generator=generator) / math.sqrt(module.in_features)
                weights[path] = (a, torch.zeros(module.out_features, rank))
        return cls(weights, alpha)


def _pairs(tensors: Mapping[str, Tensor], folder: Path) -> Iterable[tuple[str, Pair]]:
    for name, a in tensors.items():
        if not name.endswith(_A):
            continue
        path = name.removeprefix(_PREFIX).removesuffix(_A)
        b = tensors.get(name.removesuffix(_A) + _B)
        if b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise ArtifactError(
                f"the adapter in {folder} has no fitting A and B for {path}",
                expected="lora_A [rank, inputs] and lora_B [outputs, rank]",
                remedy="restore the folder as it was written",
            )
        yield path, (a.float(), b.float())


def _not_plain(config: Mapping[str, Any], weights: Mapping[str, Pair], tensors: Mapping[str, Tensor]) -> str | None:
    """What makes an adapter other than plain LoRA, or None."""
    if config.get("peft_type") != "LORA" or not isinstance(config.get("lora_alpha"), int | float):
        return f"peft_type {config.get('peft_type')!r}, lora_alpha {config.get('lora_alpha')!r}"
    if used := [k for k in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(k)]:
        return f"{', '.join(used)} is set"
    if config.get("bias", "none") != "none":
        return f"bias {config['bias']!r}"
    known = {_PREFIX + path + part for path in weights for part in (_A, _B)}
    if other := sorted(set(tensors) - known):
        return f"it holds {', '.join(other[:3])}"
    ranks = sorted({a.shape[0] for a, _ in weights.values()})
    return None if ranks == [config.get("r")] else f"r is {config.get('r')!r}, the tensors have ranks {ranks}"
