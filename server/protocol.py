"""What both generating APIs read from a request: OpenAI's fields, honoured, or refused by name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator

from groundwire.server.options import Options
from groundwire.server.wire import Only, Wire, refusal
from groundwire.types import Sampling

SEEDS = 2**63  # a signed 64-bit integer holds as many, from zero on
MAX_STOPS = 4
_SAMPLER = "answers are sampled by temperature and top_p only; leave it out"
_Unpenalised = Annotated[Any, Only((0,), _SAMPLER)]

Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(max_length=MAX_STOPS),
    BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_STOPS},
            ]
        }
    ),
]


class StreamOptions(Wire):
    """OpenAI's `stream_options`."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, Only((False,), "chunks are never padded; leave it out")] = None


class Generation(Wire):
    """The fields that chat and text completions share."""

    model: str
    n: int | None = Field(None, ge=1)
    stop: Stops | None = None
    seed: int | None = Field(None, ge=-SEEDS, lt=SEEDS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    frequency_penalty: _Unpenalised = None
    presence_penalty: _Unpenalised = None
    logit_bias: Annotated[Any, Only(({},), _SAMPLER)] = None
    hallucination: Options | None = None

    @field_validator("stream_options")
    @classmethod
    def _needs_a_stream(cls, options: StreamOptions | None, info: Any) -> StreamOptions | None:
        if options is not None and not info.data.get("stream"):
            raise refusal("stream_options", "only allowed in a stream: set stream to true, or leave it out")
        return options

    @property
    def options(self) -> Options:
        return self.hallucination or Options()

    @property
    def choices(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def token_limit(self) -> int | None:
        """The most tokens of an answer, where the request says."""
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """How many alternatives to report for each token; None for no log-probabilities at all."""
        raise NotImplementedError

    def sampling(self, choice: int, default_tokens: int) -> Sampling:
        """How to generate choice number `choice`; each has a seed of its own."""
        return Sampling(
            max_tokens=self.token_limit or default_tokens,
            temperature=1.0 if self.temperature is None else float(self.temperature),
            top_p=1.0 if self.top_p is None else float(self.top_p),
            seed=None if self.seed is None else (self.seed + choice) % SEEDS,
            stop=tuple(self.stop or ()),
            logprobs=self.alternatives,
        )
