"""vLLM's worker, following requests while it runs the model: `--worker-cls groundwire.engines.vllm.worker.Worker`.

After each pass the rows of the requests that asked for it are taken from the hookpoint and handed to `Slots`. The
detector is named by `--additional-config '{"groundwire": {"detector": "FOLDER"}}'`, else by GROUNDWIRE_DETECTOR, else
it is the one that ships. With tensor parallelism every process has the whole residual stream: the first one follows.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Any

import torch

from groundwire import __version__
from groundwire.artifact import Artifact
from groundwire.detector import DEFAULT_ARTIFACT
from groundwire.engines.vllm.refusals import check_config
from groundwire.engines.vllm.running import RunningFile
from groundwire.engines.vllm.slots import Part, Slots
from groundwire.engines.vllm.tap import Tap, open_tap
from groundwire.engines.vllm.wire import KEY, Take, Wish
from groundwire.errors import InputError

logger = logging.getLogger(__name__)

WORKER = "groundwire.engines.vllm.worker.Worker"
VARIABLE = "GROUNDWIRE_DETECTOR"


class Following:
    """What a vLLM worker class is extended by. Methods named `groundwire_...` are for `collective_rpc`.

    Raises InputError on a configuration under which verdicts would mislead, ArtifactError where there is no detector.
    """

    vllm_config: Any
    model_config: Any
    scheduler_config: Any
    model_runner: Any
    device: Any
    rank: int

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        check_config(vllm_config)
        folder = detector_folder(vllm_config.additional_config)
        self._gw_artifact = Artifact.of_detector(folder)
        # Compiled graphs are kept by a hash of the configuration; those without our capture are other graphs.
        about = {"detector": str(folder), "hookpoint": self._gw_artifact.hookpoint, "version": __version__}
        vllm_config.additional_config = {**(vllm_config.additional_config or {}), KEY: about}
        self._gw_slots: Slots | None = None
        self._gw_running: RunningFile | None = None
        self._gw_seconds = {"steps": 0, "capture": 0.0, "pass": 0.0, "failed": 0, "takes": 0, "taking": 0.0}
        super().__init__(vllm_config, *args, **kwargs)  # type: ignore[call-arg]

    def load_model(self, *args: Any, **kwargs: Any) -> Any:
        """Load the model, open the tap, and make room for the requests."""
        result = super().load_model(*args, **kwargs)  # type: ignore[misc]
        artifact, tokens = self._gw_artifact, self.scheduler_config.max_num_batched_tokens
        width, dtype = self.model_config.get_hidden_size(), self.model_config.dtype
        self._gw_tap: Tap = open_tap(
            self.model_runner, artifact.hookpoint, tokens=tokens, width=width, dtype=dtype, device=self.device
        )
        own = artifact.scorer.encoder.weight.shape[1]
        if self.rank == 0 and own == width:  # another width is another model: the front says so
            self._gw_running = RunningFile()
            scorer = artifact.scorer.to(self.device)
            self._gw_slots = Slots(scorer, self.scheduler_config.max_num_seqs, self._gw_running)
        return result

    @torch.inference_mode()
    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a step, then take what is followed from it."""
        start = perf_counter()
        output = super().execute_model(scheduler_output, *args, **kwargs)  # type: ignore[misc]
        middle = perf_counter()
        if self._gw_slots is not None:
            try:
                self._follow(self._gw_slots, scheduler_output)
            except Exception:  # an answer without a verdict, not an engine without answers
                self._gw_seconds["failed"] += 1
                logger.exception("a step was not followed")
                self._gw_slots.lose()
        seconds = self._gw_seconds
        seconds["steps"] += 1
        seconds["pass"] += middle - start
        seconds["capture"] += perf_counter() - middle
        return output

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """Sample, as part of the step's time; then write the scores so far that the device has by now."""
        start = perf_counter()
        output = super().sample_tokens(*args, **kwargs)  # type: ignore[misc]
        self._gw_seconds["pass"] += perf_counter() - start
        if self._gw_slots is not None:
            self._gw_slots.tell()
        return output

    def shutdown(self) -> None:
        """Remove the file of running scores as well."""
        if self._gw_running is not None:
            self._gw_running.close()
        super().shutdown()  # type: ignore[misc]

    # -- called from the front ------------------------------------------------------------------------------------

    def groundwire_begin(self) -> dict[str, Any] | None:
        """What the front has to know; None of a process that does not follow. Each call gives it a block of places."""
        if self.rank != 0:
            return None
        running = self._gw_running
        return {
            "version": __version__,
            "digest": digest(self._gw_artifact),
            "hookpoint": self._gw_artifact.hookpoint,
            "tap": self._gw_tap.kind,
            "follows": self._gw_slots is not None,
            "running": str(running.path) if running else None,
            "block": running.block() if running else 0,
        }

    def groundwire_take(self, takes: Sequence[Mapping[str, Any]], drops: Sequence[str]) -> list[bytes | None] | None:
        """Readouts of answers that are over (see `Slots.take`), and requests to forget."""
        if self._gw_slots is None:
            return None
        start = perf_counter()
        found = self._gw_slots.take([Take(**take) for take in takes])
        self._gw_slots.drop(drops)
        self._gw_seconds["takes"] += 1
        self._gw_seconds["taking"] += perf_counter() - start
        return found

    def groundwire_stats(self) -> dict[str, Any] | None:
        """Since the last call: steps, seconds of their passes (`pass`) and of following them (`capture`), steps that
        failed to be followed, calls of `groundwire_take` and their seconds. And how many slots are in use."""
        if self._gw_slots is None:
            return None
        found = {**self._gw_seconds, "slots": len(self._gw_slots)}
        self._gw_seconds = dict.fromkeys(self._gw_seconds, 0)
        return found

    # -- steps ----------------------------------------------------------------------------------------------------

    def _follow(self, slots: Slots, scheduled: Any) -> None:
        slots.end(scheduled.finished_req_ids)
        for new in scheduled.scheduled_new_reqs:
            self._begin(slots, new)
        state = self.model_runner.execute_model_state
        if not slots.following or state is None or not scheduled.total_num_scheduled_tokens:
            return
        batch = getattr(state, "input_batch", None) or self.model_runner.input_batch
        parts = parts_of(scheduled, batch.req_ids)
        if any(slots.wants(part) for part in parts):
            slots.step(self._gw_tap.rows(state, scheduled.total_num_scheduled_tokens), parts)

    def _begin(self, slots: Slots, new: Any) -> None:
        try:
            wish = Wish.of(getattr(new.sampling_params, "extra_args", None))
            if wish is not None:
                slots.begin(new.req_id, wish, new.prompt_len)
        except (InputError, ValueError) as error:
            logger.warning("a request is not followed: %s", error)


def parts_of(scheduled: Any, order: Sequence[str]) -> list[Part]:
    """What a step reads of each request, in the order of its rows. `scheduled` is vLLM's SchedulerOutput."""
    first = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
    cached = scheduled.scheduled_cached_reqs
    first.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
    counts = scheduled.num_scheduled_tokens
    return [Part(name, first[name], counts[name]) for name in order if name in counts]


def detector_folder(additional_config: Any) -> str:
    """The detector's folder. Raises InputError on another `groundwire` entry than `{"detector": "FOLDER"}`."""
    given = additional_config.get(KEY) if isinstance(additional_config, Mapping) else None
    if given is not None and not (isinstance(given, Mapping) and isinstance(given.get("detector", ""), str)):
        raise InputError(
            f"additional_config[{KEY!r}] is {given!r:.80}",
            expected='{"detector": "FOLDER"}',
            remedy="correct it, or leave it out for the detector that ships",
        )
    return (given or {}).get("detector") or os.environ.get(VARIABLE) or str(DEFAULT_ARTIFACT)


def digest(artifact: Artifact) -> str:
    """What tells whether two processes have the same detector: a hash of what scoring computes with."""
    scorer = artifact.scorer
    found = hashlib.sha256(repr((artifact.id, artifact.version, asdict(scorer.pooling))).encode())
    for tensor in (scorer.encoder.weight, scorer.encoder.bias, scorer.shapes.cuts, scorer.shapes.values):
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def __getattr__(name: str) -> Any:
    """`Worker`, made when vLLM asks for it: this module is imported where there is no vLLM."""
    if name != "Worker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_worker import CPUWorker as Base
    else:
        from vllm.v1.worker.gpu_worker import Worker as Base
    globals()[name] = type(name, (Following, Base), {"__module__": __name__, "__doc__": Following.__doc__})
    return globals()[name]
