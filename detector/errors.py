"""Every error Groundwire raises on purpose, in one tree.

GroundwireError
├── InputError          a row, file or argument that cannot be used
│   └── PromptTooLong   the prompt does not fit the reader's context
├── ModelError          the reader (language model, tokenizer) is missing or broken
│   └── FetchError      the download failed: no network, wrong checksum, interrupted
├── DictionaryError     the sparse autoencoder cannot be read or does not fit the hookpoint
├── ArtifactError       the detector artifact is broken or belongs to another model, tokenizer or dictionary
├── CaptureError        the forward pass gave no or unusable activations
└── MissingExtra        an optional dependency is not installed

Each message holds what was given, what was expected and what to do about it.
"""

from __future__ import annotations


class GroundwireError(Exception):
    """Base of all errors. `given`, `expected`, `remedy` are short phrases; the message is built from them."""

    def __init__(self, given: str, *, expected: str = "", remedy: str = "") -> None:
        self.given, self.expected, self.remedy = given, expected, remedy
        parts = [given, f"Expected: {expected}" if expected else "", f"To fix: {remedy}" if remedy else ""]
        super().__init__("\n  ".join(part for part in parts if part))


class InputError(GroundwireError):
    """A row, file or argument that cannot be used."""


class PromptTooLong(InputError):
    """The prompt, or prompt and response together, exceed the reader's context."""


class ModelError(GroundwireError):
    """The reader (language model or tokenizer) is missing or broken."""


class FetchError(ModelError):
    """The reader could not be downloaded or what arrived is not what was published."""


class DictionaryError(GroundwireError):
    """The sparse autoencoder cannot be read, or does not fit the hookpoint."""


class ArtifactError(GroundwireError):
    """The detector artifact is broken or belongs to another model, tokenizer or dictionary."""


class CaptureError(GroundwireError):
    """The forward pass gave no, or unusable, activations."""


class MissingExtra(GroundwireError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", remedy=f'pip install "groundwire[{extra}]"')
