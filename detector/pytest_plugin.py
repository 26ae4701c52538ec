"""pytest: assert that a pipeline's answers stay faithful to their passages.

    def test_opening_year(assert_faithful):
        passages = retrieve("When did the bridge open?")
        assert_faithful(question="When did the bridge open?", passages=passages, answer=pipeline(passages))

The detector is the embedded default; override the session fixture `groundwire_guard` in a conftest.py for another.
pytest loads this module in every session, so it imports nothing of Groundwire until a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from groundwire.guard import Guard
    from groundwire.types import Verdict

TOP_TERMS = 5


class AssertFaithful(Protocol):
    """What the fixture `assert_faithful` gives."""

    def __call__(
        self,
        *,
        question: str,
        passages: Any,
        answer: str,
        max_score: float | None = None,
        allow_not_checked: bool = False,
    ) -> Verdict:
        """Fail the test where the answer scores above `max_score` (None: the guard's threshold).

        An answer that was not checked fails too, with the reason, unless `allow_not_checked`. Returns the verdict.
        """
        ...


@pytest.fixture(scope="session")
def groundwire_guard() -> Guard:
    """The guard behind `assert_faithful`; loads its detector at the first check."""
    from groundwire.guard import Guard

    return Guard()


@pytest.fixture
def assert_faithful(groundwire_guard: Guard) -> AssertFaithful:
    """A function that fails the test where an answer leaves its passages. See `AssertFaithful`."""

    def check(
        *,
        question: str,
        passages: Any,
        answer: str,
        max_score: float | None = None,
        allow_not_checked: bool = False,
    ) -> Verdict:
        __tracebackhide__ = True  # the failing line is the test's own
        from groundwire.guard import decide

        verdict = groundwire_guard.check(question, passages, answer)
        if max_score is not None:
            verdict = decide(verdict.detection, max_score)
        if verdict.flagged or (verdict.flagged is None and not allow_not_checked):
            pytest.fail(describe(verdict, answer))
        return verdict

    return check


def describe(verdict: Verdict, answer: str) -> str:
    """Why `assert_faithful` fails: the answer with its unfaithful spans marked, what is wrong, the strongest terms."""
    from groundwire.highlight import mark

    detection = verdict.detection
    if not detection.checked:
        detail = f" ({detection.detail})" if detection.detail else ""
        return f"the answer was not checked: {detection.reason}{detail}\n  answer: {answer}"
    lines = [
        f"the answer leaves its passages: score {detection.score:.3f} is above {verdict.threshold:.3f}",
        f"  answer: {mark(answer, detection.spans)}",
        f"  why: {verdict.explanation}",
    ]
    for c in detection.contributions[:TOP_TERMS]:
        lines.append(f"  {c.contribution:+.2f}  {c.term.name}" + (f"  at {c.token!r}" if c.token else ""))
    return "\n".join(lines)
