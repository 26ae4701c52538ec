"""`groundwire demo`: a real model answers from passages, its forward pass is read, its answers are checked."""

from __future__ import annotations

import sys
import textwrap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from groundwire.guard import decide
from groundwire.highlight import mark
from groundwire.prompts import grounded_messages
from groundwire.types import Contribution, Detection, Passage, Request, Sampling, Verdict

if TYPE_CHECKING:
    from groundwire.detector import Detector

WIDTH = 100
MAX_TOKENS = 160


@dataclass(frozen=True)
class Question:
    """A question and its passages; `why` says what to watch for. The answer is always the model's own."""

    text: str
    passages: tuple[str, ...]
    why: str


BRIDGE = (
    "The Tidewater Bridge opened to traffic on 14 May 1931. It is 642 metres long and carries two lanes of road "
    "across the Arrow estuary.",
    "Until 1931 a steam ferry crossed the Arrow estuary twice an hour.",
)
QUESTIONS = (
    Question("When was the Tidewater Bridge opened, and how long is it?", BRIDGE, "the passages hold the answer"),
    Question(
        "Tell the story of the Tidewater Bridge: who built it, why, and what happened on the opening day.",
        BRIDGE,
        "the passages hold little of this: a small model is likely to invent",
    ),
    Question(
        "Explain what the warranty covers and how to make a claim.",
        (
            "The warranty covers faults in material and workmanship for 24 months from the date of purchase. Batteries "
            "are covered for 6 months. Damage from water or from falls is not covered.",
            "To make a claim, send the device with the receipt to the service address. Repairs take about ten working "
            "days.",
        ),
        "the passages hold the answer",
    ),
    Question(
        "Describe the life of a kangaroo: what it eats, where it sleeps and how long it lives.",
        (
            "Kangaroos are marsupials that live in Australia. The red kangaroo is the largest of them and can jump "
            "nine metres in one leap.",
        ),
        "true or not, what follows is hardly in the passage",
    ),
    Question(
        "Why did the company's revenue fall in 2023?",
        (
            "Harbour Foods reported revenue of 412 million euros in 2023, down from 455 million in 2022. The company "
            "closed two of its nine plants in March 2023. Its profit rose to 31 million euros.",
        ),
        "the passage gives no reason",
    ),
)


@click.command()
@click.option("--artifact", metavar="FOLDER", help="Detector to use. [default: the one that ships with Groundwire]")
@click.option("--color/--no-color", default=None, help="Highlight with colour. [default: where the terminal can]")
def demo(artifact: str | None, color: bool | None) -> None:
    """Watch a small language model answer from passages, and each answer being checked while it is generated.

    Nothing is canned: SmolLM2-135M-Instruct generates every answer here and now, on the CPU.
    """
    from groundwire.detector import Detector

    start = time.perf_counter()
    click.echo("Loading the model and the detector ...", err=True)
    detector = Detector.from_pretrained(artifact)
    colored = sys.stdout.isatty() if color is None else color
    click.echo(f"{detector.engine.model_id}, ready after {time.perf_counter() - start:.1f} s.\n")
    for number, question in enumerate(QUESTIONS, 1):
        text, detection = _answer(detector, question)
        verdict = decide(detection, detector.threshold)
        click.echo(_shown(number, question, text, verdict, colored), color=colored)
    click.echo(_legend(colored), color=colored)


def _answer(detector: Detector, question: Question) -> tuple[str, Detection]:
    """The model's answer and the detection that came with it, out of one forward pass per token."""
    passages = [Passage(text, str(number)) for number, text in enumerate(question.passages, 1)]
    messages = grounded_messages(question.text, passages)
    text = ""
    for item in detector.stream(Request("demo", messages, Sampling(max_tokens=MAX_TOKENS), passages=passages)):
        if isinstance(item, Detection):
            return text, item
        text += item.text
    raise RuntimeError("the stream ended without a detection")


def _shown(number: int, question: Question, text: str, verdict: Verdict, color: bool) -> str:
    head = click.style(f"{number}. {question.text}", bold=True) if color else f"{number}. {question.text}"
    lines = [head, f"   ({question.why})"]
    lines += [_wrapped(f"[{i}] {passage}", "   ", "       ") for i, passage in enumerate(question.passages, 1)]
    lines += ["", _wrapped(mark(text, verdict.spans, color).strip("\n"), "   > ", "   > "), ""]
    return "\n".join([*lines, *_verdict_lines(verdict), ""])


def _verdict_lines(verdict: Verdict) -> list[str]:
    detection = verdict.detection
    if not detection.checked or detection.score is None or verdict.threshold is None:
        return [f"   NOT CHECKED ({detection.reason})"]
    word = "UNFAITHFUL" if verdict.flagged else "faithful"
    side = "above" if verdict.flagged else "not above"
    lines = [f"   {word}: score {detection.score:.2f}, {side} the threshold {verdict.threshold:.2f}"]
    if verdict.explanation:
        lines.append(_wrapped(verdict.explanation, "   ", "   "))
    lines += [f"     {_term(c)}" for c in detection.contributions[:3]]
    share = detection.check_seconds / max(detection.forward_seconds, 1e-9)
    lines.append(f"   the check added {detection.check_seconds * 1000:.0f} ms, {share:.1%} of the forward pass")
    return lines


def _term(c: Contribution) -> str:
    if c.term.kind != "latent":
        return f"{c.contribution:+.2f}  {c.term.name}"
    token = (c.token or "").strip() or "white space"
    return f"{c.contribution:+.2f}  latent {c.term.feature_id} ({c.term.name}), at “{token}”"


def _wrapped(text: str, first: str, rest: str) -> str:
    return "\n".join(
        textwrap.fill(line, WIDTH, initial_indent=first if i == 0 else rest, subsequent_indent=rest)
        for i, line in enumerate(text.split("\n"))
    )


def _legend(color: bool) -> str:
    marks = "on red" if color else "between ⟦ and ⟧"
    return f"""Characters {marks} are the ones the detector suspects; the verdict is on the whole answer. A term is a
latent of the model's residual stream (the words it fires on → the words it promotes), one direction of that stream, or
a count of what the prompt lacks; its number is what it adds to the log-odds of the score. The README says how often
it is right.

Next:
  groundwire score answers.jsonl -o verdicts.jsonl     score answers you have logged
  groundwire train detector --help                     train a detector on your own labelled answers
  python -c "from groundwire import Guard; help(Guard)"  guard a function that answers from passages"""
