"""The guard in a Python program: passages, question and answer in, a verdict out.

    from groundwire import Guard
    guard = Guard()

    @guard.wrap
    def answer(question, passages): ...

`check` and `acheck` judge an answer that exists, `stream` and `astream` one that is still arriving, `wrap` every
answer of a function. Arguments that cannot be used and a detector that cannot be loaded raise from `check`; anything
that breaks while an answer is scored gives the verdict "not_checked". Streams and wrapped functions never lose an
answer to its check: whatever breaks there ends in "not_checked" and a line in the log.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from groundwire.errors import InputError, PromptTooLong
from groundwire.passages import passages_of
from groundwire.prompts import grounded_messages
from groundwire.types import Detection, Example, Reason, Verdict

if TYPE_CHECKING:
    from groundwire.detector import Detector

logger = logging.getLogger(__name__)


def decide(detection: Detection, threshold: float, action: str = "annotate") -> Verdict:
    """Compare a detection with `threshold`: flagged above it, `flagged=None` where nothing was checked.

    Raises InputError where `threshold` is no probability.
    """
    flagged = detection.score > _probability(threshold) if detection.checked and detection.score is not None else None
    return Verdict(detection, threshold=threshold, flagged=flagged, action=action)


def _probability(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise InputError(
            f"a threshold of {threshold!r}",
            expected="a probability from 0 to 1",
            remedy="leave it out to use the detector's own",
        )
    return threshold


class GuardedAnswer(str):
    """An answer with its verdict: a str like any other, and `.verdict`. What is cut from it is a plain str."""

    verdict: Verdict

    def __new__(cls, text: str, verdict: Verdict) -> GuardedAnswer:
        answer = super().__new__(cls, text)
        answer.verdict = verdict
        return answer

    def __getnewargs__(self) -> tuple[str, Verdict]:  # type: ignore[override]  # for copy and pickle
        return str(self), self.verdict


class Guard:
    """Checks answers against their passages with one detector, one answer at a time.

    detector: None loads the embedded default on first use.
    threshold: probability above which an answer is flagged; None takes the detector's own.
    """

    def __init__(self, detector: Detector | None = None, *, threshold: float | None = None) -> None:
        self.threshold = None if threshold is None else _probability(threshold)
        self._detector = detector
        self._lock = threading.Lock()
        # One worker, so that waiting checks queue here and do not use up the event loop's default threads.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="groundwire-guard")

    @property
    def detector(self) -> Detector:
        """The detector in use. Loads the embedded default where none was given; raises what loading it raises."""
        with self._lock:
            if self._detector is None:
                from groundwire.detector import Detector

                self._detector = Detector.from_pretrained()
            return self._detector

    def check(self, question: str, passages: Any, answer: str) -> Verdict:
        """Judge `answer`. See `passages_of` for what `passages` may be; without any, nothing is checked.

        Raises InputError on arguments of another type, and what loading the default detector raises (FetchError,
        ArtifactError). A failure while scoring is no exception but the verdict "not_checked" with its reason.
        """
        question, answer, found = _text("question", question), _text("answer", answer), passages_of(passages)
        detector = self.detector
        threshold = detector.threshold if self.threshold is None else self.threshold
        if not any(passage.text.strip() for passage in found):
            return decide(Detection("not_checked", "no_passages"), threshold)
        example = Example("answer", grounded_messages(question, found), answer, passages=found)
        try:
            with self._lock:
                detection = detector.score(example, passage_windows=True)
        except Exception as error:
            return _failed(error, threshold)
        return decide(detection, threshold)

    async def acheck(self, question: str, passages: Any, answer: str) -> Verdict:
        """`check` off the event loop. Concurrent calls wait for each other: the model runs one answer at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self.check, question, passages, answer)

    def stream(self, question: str, passages: Any, chunks: Iterable[str]) -> Iterator[str | Verdict]:
        """The chunks, unchanged and as they arrive, then the verdict on all of them. Errors of `chunks` propagate."""
        seen = []
        for chunk in chunks:
            seen.append(chunk)
            yield chunk
        yield self._check_open(question, passages, seen)

    async def astream(self, question: str, passages: Any, chunks: AsyncIterable[str]) -> AsyncGenerator[str | Verdict]:
        """`stream` for an asynchronous source."""
        seen = []
        async for chunk in chunks:
            seen.append(chunk)
            yield chunk
        yield await self._acheck_open(question, passages, seen)

    def wrap(
        self, function: Callable[..., Any] | None = None, /, *, question: str = "question", passages: str = "passages"
    ) -> Callable[..., Any]:
        """Decorate a function that answers from passages; its answers come back as GuardedAnswer.

        question, passages: names of the function's parameters that hold them. Coroutine functions stay coroutine
        functions; a (synchronous or asynchronous) generator yields its chunks and last the Verdict. What the function
        raises propagates. Raises InputError at decoration where a parameter is missing, and at a call where the answer
        is not a string.
        """
        if function is None:
            return functools.partial(self.wrap, question=question, passages=passages)
        return _wrapped(self, function, _Inputs(function, question, passages))

    def _check_open(self, question: Any, passages: Any, chunks: Sequence[Any]) -> Verdict:
        """`check` that fails open: an answer already given is worth more than its verdict."""
        try:
            return self.check(question, passages, "".join(_text("chunk", chunk) for chunk in chunks))
        except Exception as error:
            return _failed(error, self.threshold)

    async def _acheck_open(self, question: Any, passages: Any, chunks: Sequence[Any]) -> Verdict:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._check_open, question, passages, chunks)


class _Inputs:
    """Finds the question and the passages among the arguments of a call."""

    def __init__(self, function: Callable[..., Any], question: str, passages: str) -> None:
        self.signature, self.question, self.passages = inspect.signature(function), question, passages
        missing = [name for name in (question, passages) if name not in self.signature.parameters]
        if missing:
            raise InputError(
                f"a function with the parameters {self.signature} and none called {' or '.join(missing)}",
                expected="one parameter for the question, one for the passages",
                remedy='name them: @guard.wrap(question="query", passages="documents")',
            )

    def bind(self, args: Any, kwargs: Any) -> tuple[Any, Any, inspect.BoundArguments]:
        """The question, the passages, and the call to make. Passages that can be read once only are kept for both."""
        call = self.signature.bind(*args, **kwargs)
        call.apply_defaults()
        if isinstance(call.arguments[self.passages], Iterator):
            call.arguments[self.passages] = list(call.arguments[self.passages])
        return call.arguments[self.question], call.arguments[self.passages], call


def _wrapped(guard: Guard, function: Callable[..., Any], inputs: _Inputs) -> Callable[..., Any]:
    """`function` with a check behind it, of the same kind: plain, coroutine, generator or asynchronous generator."""

    def plain(*args: Any, **kwargs: Any) -> GuardedAnswer:
        question, passages, call = inputs.bind(args, kwargs)
        answer = _text("answer", function(*call.args, **call.kwargs))
        return GuardedAnswer(answer, guard._check_open(question, passages, [answer]))

    async def coroutine(*args: Any, **kwargs: Any) -> GuardedAnswer:
        question, passages, call = inputs.bind(args, kwargs)
        answer = _text("answer", await function(*call.args, **call.kwargs))
        return GuardedAnswer(answer, await guard._acheck_open(question, passages, [answer]))

    def generator(*args: Any, **kwargs: Any) -> Iterator[str | Verdict]:
        question, passages, call = inputs.bind(args, kwargs)
        yield from guard.stream(question, passages, function(*call.args, **call.kwargs))

    async def async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[str | Verdict]:
        question, passages, call = inputs.bind(args, kwargs)
        async with (  # closed at once where the consumer stops early
            aclosing(function(*call.args, **call.kwargs)) as chunks,
            aclosing(guard.astream(question, passages, chunks)) as items,
        ):
            async for item in items:
                yield item

    wrapper: Callable[..., Any] = plain
    if inspect.isasyncgenfunction(function):
        wrapper = async_generator
    elif inspect.isgeneratorfunction(function):
        wrapper = generator
    elif inspect.iscoroutinefunction(function):
        wrapper = coroutine
    return functools.wraps(function)(wrapper)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise InputError(
        f"{name} of type {type(value).__module__}.{type(value).__qualname__}",
        expected="a string",
        remedy="pass the text alone, for example message.content; for chunks of text use guard.stream",
    )


def _failed(error: Exception, threshold: float | None) -> Verdict:
    logger.warning("an answer was not checked: %s", error, exc_info=error)
    reason: Reason = "capture_failed"
    if isinstance(error, InputError):
        reason = "prompt_too_long" if isinstance(error, PromptTooLong) else "invalid_input"
    detection = Detection("not_checked", reason, detail=f"{type(error).__name__}: {error}")
    return Verdict(detection, threshold=threshold, flagged=None, action="annotate")
