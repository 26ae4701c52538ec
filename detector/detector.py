"""The detector: an artifact and an engine that runs its model. Scores answers that exist, or answers as they come."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from groundwire.abstention import abstained
from groundwire.answering import Answering
from groundwire.artifact import Artifact
from groundwire.binding import bounds
from groundwire.calibration import sigmoid, threshold_for
from groundwire.engines.base import Adaptable, Asked, Engine
from groundwire.errors import CaptureError, InputError, PromptTooLong
from groundwire.passage_windows import PassageWindows, Prompts, joined
from groundwire.prompts import Rendered, rendered, tokenize_response
from groundwire.reasons import Reasons
from groundwire.sentences import sentence_ends
from groundwire.source import Source
from groundwire.spans import Mark, find_spans
from groundwire.types import (
    Contribution,
    Detection,
    Example,
    Reading,
    Readout,
    Reason,
    Request,
    SentenceScore,
    Span,
    Step,
    Token,
    TokenScore,
)

DEFAULT_ARTIFACT = Path(__file__).parent / "pretrained" / "smollm2-135m-instruct-q4_1"
DEFAULT_TARGET = "balanced_accuracy"
DOUBTFUL = 0.3  # score above which a sentence is worth a reason, where the threshold is not lower
LOG = logging.getLogger(__name__)
NO_TOKENS = "the tokenizer makes no token of the response"


class Detector:
    """Scores whether answers stay with their passages.

    Build it with `from_pretrained`. `threshold` is the score above which an answer counts as unfaithful.

    checking: the detector of the checking reader, which gives the verdict on every whole answer; this one then only
    tells the running score of answers that are being generated. None where the model's own pass gives the verdict.
    """

    def __init__(
        self, artifact: Artifact, engine: Engine, *, threshold: float, checking: Detector | None = None
    ) -> None:
        self.artifact, self.engine, self.threshold, self.checking = artifact, engine, threshold, checking
        self.id = artifact.id
        self._about = {
            "id": artifact.id,
            "version": artifact.version,
            "model": engine.model_id,
            "hookpoint": artifact.hookpoint,
            "same_model": True,
            "reading": "own" if artifact.adapter is None else "checking",
        }

    @classmethod
    def from_pretrained(
        cls,
        artifact: str | Path | None = None,
        *,
        model: str | Path | None = None,
        engine: Engine | None = None,
        threshold: float | None = None,
        target: str = DEFAULT_TARGET,
        prevalence: float | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        reading: Reading | None = None,
    ) -> Detector:
        """Load an artifact and the model it belongs to.

        artifact: folder; None for the embedded default. model: local folder or Hugging Face id where the artifact's own
            model id is not what you have. engine: one that is already running, instead of `model`.
        threshold: score above which an answer is flagged; None takes the artifact's for `target`.
        prevalence: share of unfaithful answers you expect; scores (and the target's threshold) shift from the
            artifact's reference share to it.
        reading: "checking" for the verdict of the checking reader, "own" for that of the model's own pass; None for the
            first where artifact and engine have it.
        device, dtype: of the model, as `load_reader` takes them; of no account where `engine` is given.
        Raises ArtifactError where artifact and model do not belong together, ModelError or FetchError where the model
        cannot be had, InputError on an unknown target, or where the checking reader is asked for and there is none.
        """
        loaded = Artifact.of_detector(artifact or DEFAULT_ARTIFACT)
        if prevalence is not None:
            loaded = loaded.at_prevalence(prevalence)
        if engine is None:
            from groundwire.engines.reader import load_reader
            from groundwire.engines.transformers import TransformersEngine

            engine = TransformersEngine(
                load_reader(model or loaded.model, dtype=dtype, device=device), loaded.hookpoint
            )
        loaded.check_engine(engine)
        second = None if reading == "own" else _second(loaded, engine, reading)
        thresholds = (second[0] if second else loaded).thresholds
        threshold = threshold_for(thresholds, target) if threshold is None else threshold
        checking = cls(*second, threshold=threshold) if second else None
        return cls(loaded, engine, threshold=threshold, checking=checking)

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Scores by target, of the verdict on whole answers."""
        return (self.checking or self).artifact.thresholds

    @property
    def tokenizer(self) -> Any:
        return self.engine.tokenizer

    @property
    def tokens_read(self) -> int:
        """Tokens that scoring has put through the model so far, each distinct prompt of a batch once."""
        return self.engine.tokens_read + (self.checking.tokens_read if self.checking else 0)

    def score(self, example: Example, *, features: bool = False, passage_windows: bool = False) -> Detection:
        """Score one answer, as `score_batch` does."""
        return self.score_batch([example], features=features, passage_windows=passage_windows)[0]

    def score_batch(
        self, examples: Sequence[Example], *, features: bool = False, passage_windows: bool = False
    ) -> list[Detection]:
        """Score answers, in order. Answers to the same prompt share its encoding.

        features: keep the activations (`Detection.features`). passage_windows: where a prompt exceeds the model's
        context, score its passages in overlapping windows (`PassageWindows`), each token by the one where its risk is
        lowest; else such an answer is not checked (prompt_too_long).
        A row that cannot be scored is `not_checked` with its reason; it never stops the others.
        """
        if self.checking is not None:
            return self.checking.score_batch(examples, features=features, passage_windows=passage_windows)
        found: dict[int, Detection] = {}
        known: dict[tuple[tuple[str, str], ...], Rendered] = {}  # rows of one prompt are rendered once
        windows = PassageWindows(self.tokenizer, self.engine.context) if passage_windows else None
        groups: dict[Prompts, dict[int, list[Token]]] = {}
        for i, example in enumerate(examples):
            if reason := _nothing_to_check(example.response):
                found[i] = self.not_checked(reason)
                continue
            tokens = tokenize_response(self.tokenizer, example.response)
            if not tokens:
                found[i] = self.not_checked("empty_response", NO_TOKENS)
                continue
            try:
                prompts = self._prompts(example, len(tokens), known, windows)
            except InputError as error:
                reason = "prompt_too_long" if isinstance(error, PromptTooLong) else "invalid_input"
                found[i] = self.not_checked(reason, str(error))
                continue
            groups.setdefault(prompts, {})[i] = tokens
        found.update(self._replayed(groups, examples, features))
        return [found[i] for i in range(len(examples))]

    def judge(self, request: Request, text: str, tokens: Sequence[Token], step: Step, source: Source) -> Detection:
        """The verdict on an answer that the engine has just generated: the checking reader's, else the own pass's.

        tokens: the answer's, as they were generated. step: its last one, with a readout; its `prompt` spares reading
        the prompt again. source: as in `detect`.
        """
        if self.checking is None:
            return self.detect(step.readout, text, tokens, source) if step.readout else self.not_checked("disabled")
        return self.checking._read_again(request, text, tokens, step, source)

    def _read_again(
        self, request: Request, text: str, tokens: Sequence[Token], step: Step, source: Source
    ) -> Detection:
        """`judge`, by this detector's own engine."""
        if reason := _nothing_to_check(text):
            return self.not_checked(reason)
        began = perf_counter()
        prompt = rendered(self.tokenizer, request.messages)
        known = step.prompt if step.prompt is not None and step.prompt.ids == prompt.ids else None
        asked = Asked.of(prompt, [(text, tokens)], self.artifact.focus, known)
        asking = perf_counter() - began
        try:
            ((readout,),) = self.engine.replay([asked], self.artifact.scorer, features=True)
        except CaptureError as error:
            return self.not_checked("capture_failed", str(error))
        found = self.detect(readout, text, tokens, source)
        # What reading again takes is part of the check; what the answer itself took is not.
        own = step.readout
        generating, checking = (own.forward_seconds, own.check_seconds) if own else (0.0, 0.0)
        seconds = checking + asking + found.forward_seconds + found.check_seconds
        return replace(found, forward_seconds=generating, check_seconds=seconds)

    def stream(self, request: Request) -> Iterator[Step | Detection]:
        """Generate an answer; yield each step as it comes and, last, the detection over all of it.

        Raises InputError on messages or sampling that cannot be used, PromptTooLong where prompt and `max_tokens`
        exceed the context; both before the first step.
        """
        answering = Answering(self)
        answering.add(request)
        while len(answering):
            for progress in answering.step():
                yield progress.step
                if progress.detection is not None:
                    yield progress.detection

    def detect(self, readout: Readout, text: str, tokens: Sequence[Token], source: Source) -> Detection:
        """Turn what scoring folded for one response into a detection.

        source: what was asked; grounding terms and evidence come from it, so one for all responses to a prompt is best.
        """
        start = perf_counter()
        if reason := _nothing_to_check(text):
            return self.not_checked(reason)
        if not tokens:  # a tokenizer may drop all of a text, and no rows are no evidence
            return self.not_checked("empty_response", NO_TOKENS)
        if not readout.finite:
            return self.not_checked("capture_failed", "the model gave activations that are not finite numbers")
        if readout.rows != len(tokens):
            return self.not_checked("capture_failed", f"{readout.rows} rows for {len(tokens)} visible tokens")
        scores = [
            TokenScore(text[t.start : t.end], t.start, t.end, sigmoid(logit))
            for t, logit in zip(tokens, readout.token_logits.tolist(), strict=True)
        ]
        head, unlike, marks = self.artifact.grounding, self.artifact.unlike, list[Mark]()
        if self.artifact.scorer.end_shapes is not None:
            ends, binding = sentence_ends(text, tokens), self.artifact.binding
            faults = source.binding.measure(text, bounds(tokens, ends)) if binding else []
            more = binding.read(faults, tokens) if binding else None
            readout = self.artifact.scorer.by_sentence(readout, ends, more)
            marks = binding.marks(faults) if binding else []
        grounding = head.contributions(source.grounding.measure(text)).tolist() if head else []
        logit = readout.logit + sum(grounding)
        reasons = Reasons(source, text)
        sentences = _sentence_scores(readout, text, tokens, sum(grounding, 0.0), reasons, min(DOUBTFUL, self.threshold))
        spans = find_spans(text, scores, self.artifact.spans, sentences, marks)
        return Detection(
            status="checked",
            score=sigmoid(logit),
            logit=logit,
            intercept=self.artifact.scorer.intercept,
            contributions=self._contributions(readout, scores, grounding),
            spans=tuple(_with_evidence(span, text, source, reasons) for span in spans),
            tokens=tuple(scores),
            sentences=sentences,
            unlike_training=unlike.measure(readout.mean_features) if unlike else None,
            detector=self._about,
            forward_seconds=readout.forward_seconds,
            check_seconds=readout.check_seconds + perf_counter() - start,
        )

    def not_checked(self, reason: Reason, detail: str | None = None) -> Detection:
        """A detection that says why there is none."""
        about = (self.checking or self)._about  # the one whose verdicts all others are
        return Detection(status="not_checked", reason=reason, detail=detail, detector=about)

    def _prompts(
        self,
        example: Example,
        response: int,
        known: dict[tuple[tuple[str, str], ...], Rendered],
        windows: PassageWindows | None,
    ) -> Prompts:
        """The rendered prompt, alone where it fits with its response, else in windows."""
        key = tuple((m.get("role", ""), m.get("content", "")) for m in example.messages)
        if key not in known:
            known[key] = rendered(self.tokenizer, example.messages)
        prompt = known[key]
        if len(prompt) + response <= self.engine.context:
            return (prompt,)
        if windows is None:
            lengths = f"{len(prompt)} prompt and {response} response tokens"
            raise PromptTooLong(f"{lengths}; context of {self.engine.context}")
        return windows.cut(example, response)

    def _replayed(
        self, groups: Mapping[Prompts, Mapping[int, Sequence[Token]]], examples: Sequence[Example], keep: bool
    ) -> dict[int, Detection]:
        """Detections of responses (by their place in `examples`) to rendered prompts, or to windows of them."""
        by_sentence = self.artifact.scorer.end_shapes is not None
        kept = keep or by_sentence or any(len(prompts) > 1 for prompts in groups)
        asked = [
            Asked.of(prompt, [(examples[i].response, tokens) for i, tokens in own.items()], self.artifact.focus)
            for prompts, own in groups.items()
            for prompt in prompts
        ]
        try:
            readouts = iter(self.engine.replay(asked, self.artifact.scorer, features=kept))
            readings = [self._read([next(readouts) for _ in prompts]) for prompts in groups]
        except CaptureError as error:
            return {i: self.not_checked("capture_failed", str(error)) for own in groups.values() for i in own}
        found: dict[int, Detection] = {}
        sources: dict[Source, Source] = {}
        for (prompts, own), theirs in zip(groups.items(), readings, strict=True):
            windows = len(prompts) if len(prompts) > 1 else None
            for (i, tokens), readout in zip(own.items(), theirs, strict=True):
                source = Source.of(examples[i])
                detection = self.detect(readout, examples[i].response, tokens, sources.setdefault(source, source))
                features = readout.features if keep and detection.checked else None
                found[i] = replace(detection, passage_windows=windows if detection.checked else None, features=features)
        return found

    def _read(self, windows: Sequence[Sequence[Readout]]) -> Sequence[Readout]:
        """The readouts of responses from those of each window of their prompt."""
        if len(windows) == 1:
            return windows[0]
        found = []
        for each in zip(*windows, strict=True):
            try:
                found.append(joined(each, self.artifact.scorer))
            except CaptureError:  # of this response; the others have theirs
                found.append(replace(each[0], finite=False))
        return found

    def _contributions(
        self, readout: Readout, tokens: Sequence[TokenScore], grounding: Sequence[float]
    ) -> tuple[Contribution, ...]:
        """Every term that moved the logit, largest first, with the token at which it peaked."""
        terms, found = self.artifact.terms, []
        for term, value, peak in zip(terms, readout.contributions.tolist(), readout.peaks.tolist(), strict=False):
            found.append(Contribution(term, value, tokens[peak].token, tokens[peak].start))
        for term, value in zip(terms[len(found) :], grounding, strict=True):
            found.append(Contribution(term, value))
        return tuple(sorted((c for c in found if c.contribution != 0), key=lambda c: -abs(c.contribution)))


def _second(artifact: Artifact, engine: Engine, reading: Reading | None) -> tuple[Artifact, Engine] | None:
    """The checking reader's artifact and engine, where both have one."""
    second = artifact.checking
    if second is not None and second.adapter is not None and isinstance(engine, Adaptable):
        if not second.focus or engine.focuses:
            second.check_engine(engine)
            return second, engine.adapted(second.adapter)
        LOG.warning("%s cannot read sentences with parts of their prompt: the reading is its own", engine.model_id)
    if reading == "checking":
        raise InputError(
            f"the checking reader of {artifact.id}, with {type(engine).__name__}",
            expected="an artifact with a checking reader, and an engine that can replay with an adapter (where the "
            "artifact has a focus, of a model in which every token sees all before it)",
            remedy='ask for the reading "own", or for the transformers engine',
        )
    return None


def _sentence_scores(
    readout: Readout, text: str, tokens: Sequence[Token], added: float, reasons: Reasons, doubtful: float
) -> tuple[SentenceScore, ...]:
    """Scores of the sentences; the response's own terms count for each."""
    if readout.sentences is None:
        return ()
    places, found = bounds(tokens, sentence_ends(text, tokens)), list[SentenceScore]()
    for (start, end), logit in zip(places, readout.sentences.tolist(), strict=False):
        piece = text[start:end].strip()
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end, score = start + len(piece), sigmoid(logit + added)
        found.append(SentenceScore(start, end, piece, score, reasons.of(start, end) if score > doubtful else None))
    return tuple(found)


def _with_evidence(span: Span, text: str, source: Source, reasons: Reasons) -> Span:
    evidence = source.evidence.find(text, span.start, span.end)
    return replace(span, evidence=evidence, reason=reasons.of(span.start, span.end))


def _nothing_to_check(response: str) -> Reason | None:
    if not response.strip():
        return "empty_response"
    return "abstained" if abstained(response) else None
