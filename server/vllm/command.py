"""`groundwire serve --engine vllm MODEL ...`: `vllm serve` with our plugin, and our worker where a detector fits."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from groundwire.artifact import Artifact
from groundwire.engines.reader import DEFAULT_MODEL, Identity, identify
from groundwire.engines.vllm.scheduler import SCHEDULER
from groundwire.engines.vllm.worker import VARIABLE, WORKER
from groundwire.errors import ArtifactError, GroundwireError, InputError, MissingExtra
from groundwire.server.settings import PREFIX, Settings
from groundwire.server.vllm.fit import differs, read_artifact
from groundwire.server.vllm.settings import vllm_settings

FORWARDED = ("host", "port", "served_model_name")  # settings that vLLM has flags of the same name for
PLUGINS = "vllm.endpoint_plugins"
RUST = "VLLM_USE_RUST_FRONTEND"
GROUPS = ("vllm.general_plugins", "vllm.platform_plugins", "vllm.io_processor_plugins", "vllm.stat_logger_plugins")

# Flags under which our worker refuses to start, seen before vLLM loads anything: (flags, value that is fine)
_REFUSED = (
    (("--pipeline-parallel-size", "-pp"), "1"),
    (("--data-parallel-size", "-dp"), "1"),
    (("--speculative-config", "-sc"), None),
)
_REMEDY = {
    "--pipeline-parallel-size": "use --tensor-parallel-size",
    "--data-parallel-size": "run several servers behind a load balancer",
    "--speculative-config": "leave it out",
}


def vllm_command(arguments: Sequence[str], settings: Settings) -> tuple[list[str], dict[str, str]]:
    """The command line of `vllm serve` and what is added to its environment.

    arguments: MODEL and vLLM's own flags. Raises InputError on settings or flags that cannot be used, ArtifactError
    where a detector that was named does not fit, MissingExtra without vLLM.
    """
    if find_spec("vllm") is None:
        raise MissingExtra("vllm", "vllm")
    found = entry_points(group=PLUGINS, name="groundwire")
    if not found:
        raise InputError(
            "Groundwire is installed without its entry point for vLLM, which would serve without verdicts",
            expected=f"the entry point groundwire in {PLUGINS}",
            remedy='install it anew: pip install --force-reinstall --no-deps "groundwire"',
        )
    for plugin in found:
        plugin.load()  # vLLM would only log what keeps it from loading, and serve without it
    for name, value in (("--grpc", "--grpc" in arguments), (RUST, os.environ.get(RUST, "0") not in ("", "0"))):
        if value:
            raise InputError(
                f"{name}: vLLM's other front end loads no plugins, and would serve without verdicts",
                expected="its server in Python",
                remedy="leave it out",
            )
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    flags = {name: given.pop(name) for name in FORWARDED if name in given}
    own = Settings(**given)
    vllm_settings(own)
    model, rest = _model(arguments)
    source, worker = _served(model, rest, own)
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", source]
    command += [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    if source != model and "served_model_name" not in flags and "--served-model-name" not in rest:
        command += ["--served-model-name", model or DEFAULT_MODEL]
    return [*command, *worker, *rest], {**_variables(given), "VLLM_PLUGINS": _plugins(os.environ.get("VLLM_PLUGINS"))}


def run(arguments: Sequence[str], settings: Settings) -> None:
    """Become `vllm serve`. Does not return."""
    command, variables = vllm_command(arguments, settings)
    click.echo(f"Starting: {' '.join(command[1:])}", err=True)
    sys.stderr.flush()
    theirs = {PREFIX + name.upper() for name in FORWARDED}  # flags by now
    kept = {name: value for name, value in os.environ.items() if name not in theirs}
    os.execve(command[0], command, {**kept, **variables})


def _model(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The model, which comes first, and all else."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], list(arguments[1:])
    return None, list(arguments)


def _served(model: str | None, rest: Sequence[str], settings: Settings) -> tuple[str, list[str]]:
    """What vLLM is to load, and the flags for our worker and scheduler where the detector fits it."""
    artifact = read_artifact(settings)
    named = settings.detector is not None
    try:
        found = identify(
            model,
            revision=_value(rest, "--revision"),
            tokenizer=_value(rest, "--tokenizer"),
            chat_template=_template(_value(rest, "--chat-template")),
            trust_remote_code="--trust-remote-code" in rest,
        )
    except GroundwireError as error:
        if model is None or named:
            raise
        click.echo(f"groundwire: {error.given}", err=True)
        return model, []
    if why := differs(artifact, found, _width(found, artifact, "--trust-remote-code" in rest)):
        if named:
            raise ArtifactError(
                why, expected=f"a detector of {found.id}", remedy=f"train one, or serve {artifact.model}"
            )
        return found.source, []
    _check_flags(rest)
    worker, scheduler = _value(rest, "--worker-cls"), _value(rest, "--scheduler-cls")
    ours = [] if worker else ["--worker-cls", WORKER]
    return found.source, ours if scheduler or worker not in (None, WORKER) else [*ours, "--scheduler-cls", SCHEDULER]


def _value(rest: Sequence[str], name: str) -> str | None:
    """What a flag of vLLM's is set to."""
    for i, part in enumerate(rest):
        spelled, equals, value = part.partition("=")
        if spelled.replace("_", "-") == name:
            return value if equals else rest[i + 1] if i + 1 < len(rest) else None
    return None


def _template(given: str | None) -> str | None:
    """A chat template: vLLM takes a file, or the template itself."""
    if given is None or not Path(given).is_file():
        return given
    return Path(given).read_text(encoding="utf-8")


def _width(found: Identity, artifact: Artifact, trusted: bool) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(found.source, trust_remote_code=trusted).get_text_config()
    return getattr(config, "hidden_size", None) or artifact.scorer.encoder.weight.shape[1]


def _check_flags(rest: Sequence[str]) -> None:
    for names, fine in _REFUSED:
        for i, part in enumerate(rest):
            name, _, value = part.partition("=")
            value = value or (rest[i + 1] if i + 1 < len(rest) else "")
            if name.replace("_", "-") in names and value != fine:
                raise InputError(
                    f"{name} with verdicts from vLLM's own forward pass",
                    expected="a server without it",
                    remedy=_REMEDY[names[0]],
                )


def _variables(given: Mapping[str, Any]) -> dict[str, str]:
    """Settings as the environment holds them; the plugin reads them there."""
    found = {PREFIX + name.upper(): _spelled(value) for name, value in given.items() if value is not None}
    if VARIABLE in found:
        found[VARIABLE] = str(Path(found[VARIABLE]).resolve())
    return found


def _spelled(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plugins(before: str | None) -> str:
    """VLLM_PLUGINS with ours. It is a list of all that may be loaded: where it was not set, that is all there are."""
    if before is not None:
        names = before.split(",") if before else []
    else:
        names = sorted({plugin.name for group in GROUPS for plugin in entry_points(group=group)})
    return ",".join([*names, *(["groundwire"] if "groundwire" not in names else [])])
