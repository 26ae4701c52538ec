"""What a detector needs of whatever runs the model: generate with features, replay a given response, read one row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from groundwire.scoring import Scorer
from groundwire.types import Readout, Request, Step


@runtime_checkable
class Engine(Protocol):
    """Runs one model and captures at one hookpoint.

    model_id: name of the model. fingerprint: hashes of its source files, tokenizer and chat template.
    context: most tokens, prompt and response together. tokenizer: a Hugging Face fast tokenizer, or one like it.
    """

    model_id: str
    fingerprint: Mapping[str, str]
    hookpoint: str
    context: int
    tokenizer: Any

    def generate(self, requests: Sequence[Request], scorer: Scorer) -> Iterator[tuple[str, Step]]:
        """Generate for all requests together; yield `(request id, step)` as tokens come.

        Every request's last step carries its finish reason and readout. Raises PromptTooLong before the first step.
        """
        ...

    def replay(self, prompt: Sequence[int], responses: Sequence[Sequence[int]], scorer: Scorer) -> list[Readout]:
        """Score responses that already exist (token ids) to one prompt; the pass stops at the hookpoint.

        The prompt is encoded once for all of them. Raises PromptTooLong where the prompt with the longest of them does
        not fit.
        """
        ...

    def read(self, ids: Sequence[int]) -> Float[Tensor, "tokens d"]:
        """Residual rows of a token sequence at the hookpoint, float32."""
        ...
