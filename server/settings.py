"""The operator's settings: each from a flag, else the environment, else a file, else its default.

The fields of `Settings` are the one list of them: flags, environment variables, the file's keys and the table in the
documentation are made from it. `python -m groundwire.server.settings` prints the table.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from groundwire.errors import InputError
from groundwire.server.options import POLICIES, PolicyName
from groundwire.types import Reading

PREFIX = "GROUNDWIRE_"
SHA256 = re.compile(r"[0-9a-f]{64}")

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Listed = NoDecode  # in the environment and on the command line: separated by commas


class Settings(BaseSettings):
    """Settings of one server, exactly as given; `load` is what reads environment and file."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port to listen on; 0 for any free one.")
    detector: Path | None = Field(None, description="Folder of the detector; without, the one that ships.")
    model: str | None = Field(None, description="Folder or Hugging Face id of the model; without, the detector's.")
    served_model_name: str | None = Field(None, description="Name that clients ask for; without, the model's id.")
    threshold: Share | None = Field(None, description="Score above which an answer is flagged; without, `target`'s.")
    target: str | None = Field(None, description='Aim the threshold is chosen for; without, "balanced_accuracy".')
    prevalence: Share | None = Field(None, description="Share of unfaithful answers you expect; shifts the scores.")
    reading: Reading | None = Field(
        None,
        description='Who judges whole answers: "checking", a second pass over the answer with an adapter, or "own", '
        "the pass that wrote it; without, the first where the detector has it.",
    )
    policy: PolicyName = Field("annotate", description="What happens to flagged answers where a request does not say.")
    allowed_policies: Annotated[tuple[PolicyName, ...], Listed] = Field(
        POLICIES, description="Policies that a request may ask for."
    )
    on_failure: Literal["open", "closed"] = Field(
        "open", description="An answer whose check failed is delivered (open) or withheld (closed)."
    )
    halt_threshold: Share | None = Field(
        None,
        description='Score so far above which "halt" stops an answer; without, the detector\'s of fewest false alarms.',
    )
    block_message: str = Field(
        "This answer was withheld: it is not supported by the passages.",
        description="What stands in for a blocked answer.",
    )
    redaction: str = Field("[unsupported]", description="What stands in for a redacted span.")
    max_batch: Count = Field(8, description="Answers that are generated together.")
    max_queue: Count = Field(64, description="Answers that may wait for that; beyond, requests get status 429.")
    max_choices: Count = Field(8, description="Largest `n` of a request.")
    max_rows: Count = Field(256, description="Most rows in one request to /v1/detect.")
    max_tokens_default: Count = Field(256, description="Length of an answer where a request does not say, in tokens.")
    max_body_bytes: Count = Field(4 << 20, description="Largest body of a request, in bytes; beyond, status 413.")
    body_timeout: Seconds = Field(30, description="Seconds a client may take to send its request's body.")
    request_timeout: Seconds = Field(600, description="Seconds a request may take in all.")
    shutdown_seconds: Seconds = Field(30, description="Seconds that requests under way get when the server stops.")
    api_keys: Annotated[tuple[str, ...], Listed] = Field(
        (), description="SHA-256 of each key that clients may use, as `groundwire serve --hash-key` prints it."
    )
    api_keys_file: Path | None = Field(None, description="File of such hashes, one per line; `# name` may follow.")
    metrics_open: bool = Field(False, description="/metrics needs no key.")
    upstream_url: str | None = Field(
        None, description="Base URL of an API that answers instead, such as https://api.openai.com/v1."
    )
    upstream_key: SecretStr | None = Field(None, description="API key for it. No flag: others could read it.")
    upstream_timeout: Seconds = Field(120, description="Seconds to wait for its next byte.")
    verdict_log: Path | None = Field(None, description="JSONL file for all verdicts; `groundwire report` reads it.")
    verdict_log_text: bool = Field(False, description="Write prompts and answers to it as well.")
    verdict_log_bytes: Count = Field(64 << 20, description="Size from which a new file is begun.")
    verdict_log_files: Count = Field(5, description="Older files that are kept.")
    observe_share: Share | None = Field(
        None, description="Answer without checking, and check this share of the answers afterwards."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @classmethod
    def load(cls, flags: Mapping[str, Any], config: Path | None = None) -> Settings:
        """Settings from `flags`, else the environment, else the TOML file `config`, else the defaults.

        Raises InputError, saying where the value came from, on anything unknown or unusable.
        """
        file = _read(config) if config else {}
        environment = EnvSettingsSource(cls)()
        try:
            return cls(**{**file, **environment, **flags})
        except ValidationError as error:
            raise _unusable(error, flags, environment, config) from None

    @field_validator("allowed_policies", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("api_keys")
    @classmethod
    def _are_hashes(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if not all(SHA256.fullmatch(key) for key in keys):
            raise ValueError("not 64 hexadecimal digits each; `groundwire serve --hash-key` makes them")
        return keys

    @model_validator(mode="after")
    def _policy_is_allowed(self) -> Settings:
        if self.policy not in self.allowed_policies:
            raise ValueError(f"policy {self.policy} is not among allowed_policies")
        return self


def flag(name: str) -> str:
    """The command-line flag of a field."""
    return "--" + name.replace("_", "-")


def has_flag(field: FieldInfo) -> bool:
    """Secrets have none: every user of a machine can read its command lines."""
    return "SecretStr" not in str(field.annotation)


def shown_default(field: FieldInfo) -> str:
    """The default as one would write it; empty where there is none."""
    value = field.default
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def table() -> str:
    """All settings as a Markdown table."""
    lines = ["| flag | environment | file | default | what it is |", "| --- | --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = f"`{shown_default(field)}`" if shown_default(field) else ""
        spelled = f"`{flag(name)}`" if has_flag(field) else ""
        lines.append(f"| {spelled} | `{PREFIX}{name.upper()}` | `{name}` | {default} | {field.description} |")
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as error:  # tomllib's own error is a ValueError, as is bad UTF-8
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"cannot read {str(path)!r}: {why}", expected="a TOML file such as `port = 8000`", remedy="correct the file"
        ) from error


def _unusable(
    error: ValidationError, flags: Mapping[str, Any], environment: Mapping[str, Any], config: Path | None
) -> InputError:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    given = "" if name in ("", "api_keys", "upstream_key") else f" is {first['input']!r:.60}"  # may be a key
    remedy = "correct or remove it"
    if name in flags:
        where = flag(name)
    elif name in environment:
        where = PREFIX + name.upper()
        if str(first["input"]).startswith("tcp://"):
            remedy = "Kubernetes sets it for a service named groundwire: set enableServiceLinks: false in the pod"
    else:
        where = f"{name!r} in {str(config)!r}" if name else "the settings"
    expected = first["msg"].removeprefix("Value error, ")
    return InputError(f"{where}{given}", expected=expected, remedy=remedy)


if __name__ == "__main__":
    print(table())
