"""Whether a detector belongs to the model that vLLM serves, and who gives verdicts where none does.

A detector fits where tokenizer and chat template are those it was trained with, and a recorded prompt, run when the
server starts, gives the recorded activations. Where it ought to fit and the activations differ, nothing is served.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from groundwire import __version__
from groundwire.artifact import Artifact
from groundwire.calibration import threshold_for
from groundwire.detector import DEFAULT_ARTIFACT, DEFAULT_TARGET, Detector
from groundwire.engines.reader import Identity, identify
from groundwire.engines.vllm.refusals import check_config
from groundwire.engines.vllm.running import RunningBlock
from groundwire.engines.vllm.worker import WORKER, digest
from groundwire.errors import ArtifactError, CaptureError, GroundwireError, InputError
from groundwire.server.settings import Settings
from groundwire.server.vllm.link import Link
from groundwire.server.vllm.scoring import ServedEngine

FLAG = f"--worker-cls {WORKER}"


@dataclass(frozen=True)
class Own:
    """A detector of the served model itself, and how its worker is reached."""

    detector: Detector
    link: Link
    block: RunningBlock | None


@dataclass(frozen=True)
class Beside:
    """No detector fits; `why` says so. The default reader judges."""

    why: str


@dataclass(frozen=True)
class Model:
    """What vLLM serves, as its configuration and arguments say. template: where it is not the tokenizer's own."""

    name: str
    revision: str | None
    tokenizer: str | None
    template: str | None
    width: int
    trust_remote_code: bool

    @classmethod
    def of(cls, client: Any, args: Any) -> Model:
        """Of vLLM's engine client and its command's arguments. Raises InputError on a template that cannot be read."""
        config = client.model_config
        own = config.tokenizer if config.tokenizer != config.model else None
        template = getattr(args, "chat_template", None)
        if template is not None:
            template = _template(template)
        return cls(
            config.model, config.revision, own, template, config.get_hidden_size(), bool(config.trust_remote_code)
        )

    def identify(self) -> Identity:
        """See `identify`."""
        return identify(
            self.name,
            revision=self.revision,
            tokenizer=self.tokenizer,
            chat_template=self.template,
            trust_remote_code=self.trust_remote_code,
        )


def read_artifact(settings: Settings) -> Artifact:
    """The detector that the settings name, at their share of unfaithful answers."""
    found = Artifact.of_detector(settings.detector or DEFAULT_ARTIFACT)
    return found if settings.prevalence is None else found.at_prevalence(settings.prevalence)


def differs(artifact: Artifact, identity: Identity, width: int) -> str | None:
    """Why a detector cannot be of this model, as far as files tell; None where it may be."""
    for part in ("tokenizer", "chat_template"):
        if identity.fingerprint.get(part) != artifact.fingerprint.get(part):
            return f"detector {artifact.id} was trained with another {part.replace('_', ' ')}"
    own = artifact.scorer.encoder.weight.shape[1]
    return None if own == width else f"detector {artifact.id} is of a model of width {own}, not {width}"


async def fit(client: Any, args: Any, settings: Settings) -> Own | Beside:
    """Find out who gives the verdicts. Raises InputError, ArtifactError and CaptureError where the server must not
    start; each says what to do."""
    model, artifact = Model.of(client, args), read_artifact(settings)
    named = settings.detector is not None
    try:
        identity = await asyncio.to_thread(model.identify)
        why = differs(artifact, identity, model.width)
    except GroundwireError as error:
        if named:
            raise
        return Beside(error.given)
    if why is not None:
        if named:
            raise ArtifactError(
                why, expected=f"a detector of {identity.id}", remedy=f"train one, or serve {artifact.model}"
            )
        return Beside(why)
    if client.vllm_config.parallel_config.worker_cls != WORKER:
        raise InputError(
            f"vLLM was started without Groundwire's worker, and detector {artifact.id} fits {identity.id}",
            expected=f"vllm serve ... {FLAG}",
            remedy="add that flag, or start it with `groundwire serve --engine vllm`",
        )
    check_config(client.vllm_config)  # the workers of a data-parallel engine do not know that there are others
    if getattr(args, "enable_scale_out", False):
        raise InputError(
            "vLLM with --enable-scale-out: its clients could speak to the worker themselves",
            expected="a server without it",
            remedy="leave it out",
        )
    link = Link(client)
    about = await link.about()
    if (about.version, about.digest) != (__version__, digest(artifact)):
        raise InputError(
            "vLLM's worker has another detector, or another version of Groundwire, than its server",
            expected=f"detector {artifact.id} and version {__version__} in both",
            remedy="set GROUNDWIRE_DETECTOR for both, and leave additional_config out",
        )
    engine = ServedEngine(client, link, identity, artifact.hookpoint)
    try:
        await asyncio.to_thread(artifact.check_engine, engine)
    except ArtifactError as error:
        if identity.fingerprint["weights"] == artifact.fingerprint.get("weights"):
            raise CaptureError(
                f"vLLM's own pass does not give the activations of {identity.id} that were recorded: {error.given}",
                expected="those that the detector was trained on",
                remedy="use a release of vLLM that is listed as tested, without quantization; report this",
            ) from error
        if named:
            raise
        return Beside(error.given)
    if settings.reading == "checking":
        raise InputError(
            'the reading "checking", of answers that vLLM writes',
            expected='the reading "own": the adapter is not run inside vLLM',
            remedy="leave it out, or serve without vLLM",
        )
    target = settings.target or DEFAULT_TARGET
    threshold = threshold_for(artifact.thresholds, target) if settings.threshold is None else settings.threshold
    block = RunningBlock(about.running, about.block) if about.running else None
    return Own(Detector(artifact, engine, threshold=threshold), link, block)


def _template(given: Any) -> str | None:
    """A chat template as vLLM reads it. Raises InputError."""
    from vllm.renderers.chat_utils import load_chat_template

    try:
        found: str | None = load_chat_template(given)
    except Exception as error:
        raise InputError(
            f"the chat template cannot be read: {error}",
            expected="a file, or a template in one line",
            remedy="correct --chat-template",
        ) from error
    return found


def training_commands(model: str) -> str:
    """How to train a detector of a served model."""
    return (
        f"  groundwire train sae TEXT.jsonl -o dictionary --model {model} --hookpoint model.layers.N\n"
        f"  groundwire train detector LABELLED.jsonl -o detector --dictionary dictionary --model {model}\n"
        f"  groundwire serve --engine vllm {model} --detector detector"
    )
