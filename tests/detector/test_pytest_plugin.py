"""The pytest helper, run as users run it: another pytest, in a process of its own, that finds the installed plugin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
import pytest
from groundwire import Detection, Guard, Span
from groundwire.types import Contribution, Term

class Years:
    threshold = 0.5
    def score(self, example, *, passage_windows):
        if example.response == "too long":
            return Detection("not_checked", "prompt_too_long", detail="9000 tokens")
        if "1889" not in example.response:
            return Detection("checked", score=0.1)
        start = example.response.index("1889")
        terms = (Contribution(Term("latent", "years and dates", 412), 1.7, " 1889", start),)
        return Detection("checked", score=0.83, spans=(Span(start, start + 4, "1889", 0.9),), contributions=terms)

@pytest.fixture(scope="session")
def groundwire_guard():
    return Guard(Years())
"""


@pytest.fixture
def outcome(tmp_path: Path, request: pytest.FixtureRequest) -> subprocess.CompletedProcess[str]:
    """Runs the body given by parametrize(indirect) as the only test of a fresh project."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_pipeline.py").write_text(f"def test_it(assert_faithful):\n    {request.param}\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def body(answer: str, more: str = "") -> str:
    return f'v = assert_faithful(question="When?", passages=["It opened."], answer="{answer}"{more})'


@pytest.mark.parametrize(
    "outcome",
    [
        body("It opened.") + "; assert v.score == 0.1 and v.flagged is False",
        body("In 1889.", ", max_score=0.9") + "; assert v.threshold == 0.9",
        body("too long", ", allow_not_checked=True") + "; assert v.flagged is None",
    ],
    indirect=True,
)
def test_passes(outcome: subprocess.CompletedProcess[str]) -> None:
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "1 passed" in outcome.stdout


@pytest.mark.parametrize("outcome", [body("Opened in 1889.")], indirect=True)
def test_an_unfaithful_answer_fails_and_says_why(outcome: subprocess.CompletedProcess[str]) -> None:
    assert outcome.returncode == 1
    for expected in (
        "the answer leaves its passages: score 0.830 is above 0.500",
        "answer: Opened in ⟦1889⟧.",
        "+1.70  years and dates  at ' 1889'",
        "test_pipeline.py:2: Failed",
    ):
        assert expected in outcome.stdout
    assert "pytest_plugin.py" not in outcome.stdout


@pytest.mark.parametrize("outcome", [body("It opened.", ", max_score=0.05")], indirect=True)
def test_a_stricter_limit_fails(outcome: subprocess.CompletedProcess[str]) -> None:
    assert "score 0.100 is above 0.050" in outcome.stdout


@pytest.mark.parametrize("outcome", [body("too long")], indirect=True)
def test_an_answer_that_was_not_checked_fails_with_the_reason(outcome: subprocess.CompletedProcess[str]) -> None:
    assert outcome.returncode == 1
    assert "the answer was not checked: prompt_too_long (9000 tokens)" in outcome.stdout


def test_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, groundwire.pytest_plugin; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
