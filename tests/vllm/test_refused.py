"""What would mislead does not start, and says why."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundwire.detector import DEFAULT_ARTIFACT
from tests.vllm.conftest import ours, running, stock

WORKER = ("--worker-cls", "groundwire.engines.vllm.worker.Worker")


def fails(command: list[str], folder: Path, **environment: str) -> str:
    """What a server prints that does not start."""
    with pytest.raises(RuntimeError, match="did not start"), running(command, folder, **environment):
        raise AssertionError("it started")
    return (folder / "server.log").read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--pipeline-parallel-size", "2"), "use --tensor-parallel-size"),
        (("--data-parallel-size=2",), "several servers behind a load balancer"),
        (("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}'), "leave it out"),
        (("--max-batch", "4"), "--max-num-seqs of vLLM"),
        (("--api-keys", "0" * 64), "--api-key of vLLM"),
    ],
)
def test_flags_are_refused_by_name_before_anything_is_loaded(flags, says):
    run = subprocess.run(ours(*flags), capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert says in run.stderr
    assert "Traceback" not in run.stderr


def test_an_unmodified_vllm_with_our_worker_refuses_speculative_decoding(default_folder, tmp_path):
    said = fails(
        stock(default_folder, *WORKER, "--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}'),
        tmp_path,
    )
    assert "speculative decoding (--speculative-config): draft tokens that were rejected would be scored" in said


def test_a_plugin_without_its_worker_is_refused(default_folder, tmp_path):
    said = fails(stock(default_folder), tmp_path, VLLM_PLUGINS="groundwire")
    assert "vLLM was started without Groundwire's worker" in said
    assert "--worker-cls groundwire.engines.vllm.worker.Worker" in said


def test_activations_that_are_not_those_recorded_stop_the_server(tmp_path):
    """The detector's recorded row is another: what the pass gives here cannot be trusted."""
    folder = tmp_path / "detector"
    shutil.copytree(DEFAULT_ARTIFACT, folder)
    tensors = load_file(folder / "detector.safetensors")
    row = tensors["probe.row"]
    tensors["probe.row"] = row[torch.randperm(len(row), generator=torch.Generator().manual_seed(0))].contiguous()
    save_file(tensors, folder / "detector.safetensors")
    said = fails(ours("--detector", str(folder)), tmp_path)
    assert "vLLM's own pass does not give the activations" in said
    assert "Application startup complete" not in said


def test_a_detector_that_is_named_and_does_not_fit_is_refused(tiny_llama_folder):
    command = ours(str(tiny_llama_folder), "--detector", str(DEFAULT_ARTIFACT))
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert "was trained with another tokenizer" in run.stderr
    assert json.loads((DEFAULT_ARTIFACT / "config.json").read_text(encoding="utf-8"))["model"] in run.stderr
