"""An error as plain values, to be sent from the process where it happened and raised where it is waited for."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

import groundwire.errors
from groundwire.errors import GroundwireError


@dataclass(frozen=True)
class Failure:
    """What was raised. kind: name of its class. trace: where the program broke; empty for Groundwire's own errors."""

    kind: str
    given: str
    expected: str = ""
    remedy: str = ""
    trace: str = ""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """The failure that an error is."""
        kind = type(error).__name__
        if isinstance(error, GroundwireError):
            return cls(kind, error.given, error.expected, error.remedy)
        return cls(kind, str(error), trace="".join(traceback.format_exception(error)).rstrip())

    def error(self) -> GroundwireError:
        """The error to raise: of its own class where that is Groundwire's, else a GroundwireError that names it."""
        known = getattr(groundwire.errors, self.kind, None)
        if self.trace or not (isinstance(known, type) and issubclass(known, GroundwireError)):
            error = GroundwireError(f"scoring broke with {self.kind}: {self.given}")
            error.add_note(self.trace)
            return error
        error = known.__new__(known)  # classes differ in their arguments, all of them hold these three
        GroundwireError.__init__(error, self.given, expected=self.expected, remedy=self.remedy)
        return error
