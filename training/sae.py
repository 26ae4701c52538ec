"""Trains a sparse autoencoder (dictionary) on activations that `training.activations` left on disk.

BatchTopK (Bussmann, Leask, Nanda 2024, arXiv 2412.06410): in a batch of B rows the B*k largest pre-activations stay.
For use outside training the smallest kept value, averaged over batches, becomes one threshold: a JumpReLU dictionary,
of which a few latents can be encoded exactly without the others. Latents that stay silent are revived by the auxiliary
loss of Gao et al. 2024 (arXiv 2406.04093, section 2.4 and appendix A.2): they predict what the others left over.

Inputs are scaled so that a centred row has mean squared norm d_model; the scale is folded into the saved weights.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import embedding_bag
from tqdm import tqdm

from groundwire.errors import DictionaryError
from groundwire.sae import Dictionary
from groundwire.training.activations import load_rows, row_count

SHARDS_IN_MEMORY = 8
CHECKPOINT_EVERY = 200  # steps


@dataclass(frozen=True)
class SaeConfig:
    """latents: width of the dictionary. k: mean number of active latents per row. batch: rows per step.

    dead_rows: a latent that was silent for this many rows is revived. aux_weight: weight of the revival loss.
    """

    latents: int = 4096
    k: int = 60
    batch: int = 2048
    epochs: int = 2
    learning_rate: float = 6e-4
    warmup: float = 0.02
    decay: float = 0.25
    dead_rows: int = 250_000
    aux_weight: float = 1 / 32
    seed: int = 0


class SaeTrainer:
    """Learns a dictionary from rows `[n, d_model]`.

    State after `fit`: `dictionary_` (JumpReLU, in the rows' own scale), `losses_` (fraction of variance unexplained, a
    running mean of the training batches, every 20th step).
    """

    def __init__(self, config: SaeConfig, *, checkpoint: Path | None = None, device: str = "cpu") -> None:
        self.config, self.checkpoint, self.device = config, checkpoint, device

    def fit(self, shards: Sequence[Path], *, hookpoint: str, model: str) -> SaeTrainer:
        """Train on `shards`; continue from the checkpoint where there is one of the same config."""
        config = self.config
        total_rows = sum(map(row_count, shards))
        steps = max(1, total_rows * config.epochs // config.batch)
        self._start(load_rows(shards[:1]))
        done = self._resume(steps)
        bar = tqdm(total=steps, initial=done, unit="step", desc="dictionary", disable=None)
        with bar:
            # A finished run reads no shard again; an interrupted one draws its first batches anew, to the same shuffle.
            batches = self._batches(shards, steps) if done < steps else iter(())
            for step, rows in itertools.islice(enumerate(batches), done, None):
                self._step(rows.to(self.device), step, steps)
                bar.update()
                if step % 20 == 0:
                    alive = int((self._silent < config.dead_rows).sum())
                    bar.set_postfix_str(f"unexplained {self._unexplained:.3f}, alive {alive}/{config.latents}")
                    self.losses_.append(self._unexplained)
                if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
                    self._save(step + 1, steps)
        self.dictionary_ = self._dictionary(hookpoint, model)
        return self

    def _start(self, sample: Float[Tensor, "n d"]) -> None:
        config, d = self.config, sample.shape[1]
        generator = torch.Generator().manual_seed(config.seed)
        mean = sample.mean(0)
        self._scale = math.sqrt(d) / float((sample - mean).pow(2).sum(-1).mean().sqrt())
        decoder = torch.nn.functional.normalize(torch.randn(config.latents, d, generator=generator), dim=-1)
        parameters = {
            "decoder": decoder,
            "encoder": decoder.T.clone() * 0.5,
            "encoder_bias": torch.zeros(config.latents),
            "decoder_bias": mean * self._scale,
        }
        self._p = {name: value.to(self.device).requires_grad_() for name, value in parameters.items()}
        self._adam = torch.optim.Adam(self._p.values(), lr=config.learning_rate, betas=(0.9, 0.999))
        self._silent = torch.zeros(config.latents, dtype=torch.long, device=self.device)
        self._threshold, self._unexplained = 0.0, 1.0
        self.losses_: list[float] = []

    def _step(self, rows: Float[Tensor, "batch d"], step: int, steps: int) -> None:
        config, p = self.config, self._p
        x = rows * self._scale
        pre = (x - p["decoder_bias"]) @ p["encoder"] + p["encoder_bias"]
        mask, threshold = _batch_top_k(pre.detach(), config.k)
        error = x - (_sparse_decode(pre, mask, p["decoder"]) + p["decoder_bias"])
        squared = error.pow(2).sum(-1).mean()
        loss = squared
        dead = self._silent > config.dead_rows
        if dead.any():
            loss = loss + config.aux_weight * self._revival(pre, dead, error.detach())
        for group in self._adam.param_groups:
            group["lr"] = config.learning_rate * _schedule(step / steps, config)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        self._keep_unit_norm_gradient()
        torch.nn.utils.clip_grad_norm_(self._p.values(), 100.0)
        self._adam.step()
        with torch.no_grad():
            p["decoder"].copy_(torch.nn.functional.normalize(p["decoder"], dim=-1))
        fired = mask.any(0)
        self._silent = torch.where(fired, 0, self._silent + len(rows))
        variance = float((x - x.mean(0)).pow(2).sum(-1).mean())
        rate = 0.01 if step > 100 else 1 / (step + 1)
        self._threshold += rate * (threshold - self._threshold)
        self._unexplained += rate * (float(squared.detach()) / variance - self._unexplained)

    def _revival(self, pre: Tensor, dead: Tensor, error: Tensor) -> Tensor:
        """Auxiliary loss: the share of `error` that the dead latents' largest pre-activations fail to predict.

        Times the variance of a row, so that both losses are fractions on one scale (as in the paper's code): a share of
        the error itself would fade as the reconstruction improves.
        """
        candidates = pre[:, dead]
        count = min(len(candidates[0]), max(32, pre.shape[1] // 16))
        values, indices = candidates.topk(count, dim=-1)
        guess = embedding_bag(indices, self._p["decoder"][dead], mode="sum", per_sample_weights=values.relu())
        missed = (guess - error).pow(2).sum(-1).mean() / error.pow(2).sum(-1).mean().clamp_min(1e-9)
        return missed * error.shape[1]

    def _keep_unit_norm_gradient(self) -> None:
        """Remove what would only change the length of a decoder direction: it is set back to 1 anyway."""
        decoder = self._p["decoder"]
        gradient = decoder.grad
        if gradient is not None:
            along = (gradient * decoder.detach()).sum(-1, keepdim=True)
            gradient -= along * decoder.detach()

    def _batches(self, shards: Sequence[Path], steps: int) -> Iterator[Float[Tensor, "batch d"]]:
        """Shuffled batches, the same for the same seed: shards in random order, rows shuffled over several shards."""
        generator = torch.Generator().manual_seed(self.config.seed)
        given, rest = 0, None
        while True:
            order = torch.randperm(len(shards), generator=generator).tolist()
            for start in range(0, len(order), SHARDS_IN_MEMORY):
                rows = torch.cat(
                    [load_file(shards[i])["rows"] for i in order[start : start + SHARDS_IN_MEMORY]]
                    + ([rest] if rest is not None else [])
                )
                permutation = torch.randperm(len(rows), generator=generator)
                full = len(rows) // self.config.batch * self.config.batch
                for at in range(0, full, self.config.batch):
                    yield rows[permutation[at : at + self.config.batch]].float()
                    given += 1
                    if given == steps:
                        return
                rest = rows[permutation[full:]]

    def _dictionary(self, hookpoint: str, model: str) -> Dictionary:
        p = {name: value.detach().cpu() for name, value in self._p.items()}
        return Dictionary(
            encoder=p["encoder"].T.contiguous(),
            encoder_bias=p["encoder_bias"] / self._scale,
            decoder=p["decoder"],
            decoder_bias=p["decoder_bias"] / self._scale,
            activation="jumprelu",
            threshold=torch.full((self.config.latents,), self._threshold / self._scale),
            subtract_decoder_bias=True,
            hookpoint=hookpoint,
            model=model,
        )

    def _state(self) -> dict[str, Tensor]:
        state = {f"p.{name}": value.detach() for name, value in self._p.items()}
        for i, moments in enumerate(self._adam.state.values()):
            state |= {f"adam.{i}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        return state | {"silent": self._silent}

    def _save(self, step: int, steps: int) -> None:
        if self.checkpoint is None:
            return
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        described = json.dumps(
            {"config": asdict(self.config), "step": step, "steps": steps, "scale": self._scale,
             "threshold": self._threshold, "unexplained": self._unexplained, "losses": self.losses_}
        )  # fmt: skip
        save_file({k: v.contiguous() for k, v in self._state().items()}, partial, metadata={"groundwire": described})
        partial.replace(self.checkpoint)

    def _resume(self, steps: int) -> int:
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        with safe_open(self.checkpoint, "pt") as file:
            described = json.loads(file.metadata()["groundwire"])
        if described["config"] != asdict(self.config) or described["steps"] != steps:
            raise DictionaryError(
                f"{self.checkpoint} was written with another configuration or number of rows",
                expected=json.dumps(asdict(self.config)),
                remedy="choose another output folder, or delete the checkpoint",
            )
        tensors = load_file(self.checkpoint, device=self.device)
        with torch.no_grad():
            for name, value in self._p.items():
                value.copy_(tensors[f"p.{name}"])
        for i, value in enumerate(self._p.values()):
            moments = {name: tensors[f"adam.{i}.{name}"] for name in ("step", "exp_avg", "exp_avg_sq")}
            self._adam.state[value] = moments | {"step": moments["step"].cpu()}  # where Adam keeps it on any device
        self._silent = tensors["silent"]
        self._scale, self._threshold = described["scale"], described["threshold"]
        self._unexplained, self.losses_ = described["unexplained"], described["losses"]
        return int(described["step"])


def _batch_top_k(pre: Float[Tensor, "batch latents"], k: int) -> tuple[Tensor, float]:
    """Mask of the `batch * k` largest positive pre-activations (fewer where values tie at the edge), and the cut:
    `mask == pre > cut`.

    The exact order statistic is taken among values above a cut that a few rows suggest; where these rows mislead, among
    all positive ones.
    """
    wanted = len(pre) * k
    sample = pre[:: max(1, len(pre) // 64)]
    cut = float(sample.flatten().kthvalue(max(1, sample.numel() - 2 * k * len(sample))).values.clamp_min(0.0))
    values = pre[pre > cut]
    if len(values) < wanted and cut > 0:
        cut, values = 0.0, pre[pre > 0]
    if len(values) > wanted:
        cut = float(values.kthvalue(len(values) - wanted).values)
    return pre > cut, cut


def _sparse_decode(
    pre: Float[Tensor, "batch latents"], mask: Tensor, decoder: Float[Tensor, "latents d"]
) -> Float[Tensor, "batch d"]:
    """`(pre * mask) @ decoder`, touching the kept entries only."""
    rows, columns = mask.nonzero(as_tuple=True)
    counts = mask.sum(1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])
    return embedding_bag(columns, decoder, offsets, mode="sum", per_sample_weights=pre[rows, columns])


def _schedule(progress: float, config: SaeConfig) -> float:
    """Learning-rate factor: linear warm-up, constant, linear decay over the last `decay` of the run."""
    if progress < config.warmup:
        return max(progress / config.warmup, 1e-3)
    return min(1.0, max((1 - progress) / config.decay, 1e-3))
