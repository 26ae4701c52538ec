"""vLLM without vLLM: an engine that says what it is told to, our own worker running beside it, and vLLM's handlers.

Only the model is made up: a token's row depends on its id alone, and the first number of the row of `Z` says that it is
not in any passage. Everything else behaves as vLLM's does where it matters here. Nothing of vLLM's is installed: what
our code imports of it inside functions is found in `STAND_INS`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import prometheus_client
import pytest
import torch
from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict

from groundwire.additive import Shapes
from groundwire.artifact import PROBE_TEXT, Artifact, Probe
from groundwire.detector import Detector
from groundwire.engines.reader import Identity, identify
from groundwire.engines.vllm.refusals import TESTED
from groundwire.engines.vllm.running import RunningBlock
from groundwire.engines.vllm.scheduler import SCHEDULER, has_room
from groundwire.engines.vllm.wire import Wish
from groundwire.engines.vllm.worker import WORKER, Following
from groundwire.grounding import GroundingHead
from groundwire.prompts import render
from groundwire.sae import SparseEncoder
from groundwire.scoring import Scorer
from groundwire.server.vllm.fit import Own
from groundwire.server.vllm.link import Link
from groundwire.server.vllm.plugin import Plugin
from groundwire.server.vllm.scoring import ServedEngine
from groundwire.spans import SpanRule
from groundwire.types import Readout, Term
from tests.detector.engines.vllm.test_refusals import config
from tests.server.conftest import Served, running

PASSAGE = "The lighthouse was finished in 1889 by a builder from Lisbon."
QUESTION = "When was the lighthouse finished?"
GOOD = "It was finished in 1889."
BAD = "It was finished in Zion in 1889."  # Z is flagged

HOOKPOINT, WIDTH, TERMS, CONTEXT, VOCABULARY = "model.layers.2", 32, 4, 1024, 400
EOS, Z = 2, 60  # ids of the tiny tokenizer; its model is as wide as these rows
TABLE = torch.randint(-8, 9, (VOCABULARY, WIDTH), generator=torch.Generator().manual_seed(3)) / 8
TABLE[:, 0] = 0.0
TABLE[Z, 0] = 1.0


def folded(scorer: Scorer, ids: Sequence[int]) -> Readout:
    """The readout of these tokens' rows, folded in one piece."""
    rows = TABLE[torch.tensor(ids, dtype=torch.long)]
    state = scorer.fold(scorer.new_state(1), scorer.encode(rows), torch.zeros(len(ids), dtype=torch.long))
    return scorer.finish(state, 0)


def assert_same(found: Readout, expected: Readout) -> None:
    """That two readouts are exactly alike."""
    assert (found.rows, found.logit) == (expected.rows, expected.logit)
    for name in ("contributions", "peaks", "token_logits", "mean_features"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


# -- what our code imports of vLLM inside functions ---------------------------------------------------------------


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    max_tokens: int | None = 16
    n: int = 1
    temperature: float = 1.0
    stop: Any = None
    logprobs: int | None = None
    detokenize: bool = True
    extra_args: dict[str, Any] | None = None
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    skip_reading_prefix_cache: bool | None = None


def tokens_prompt(prompt_token_ids: list[int]) -> dict[str, Any]:
    return {"prompt_token_ids": prompt_token_ids}


class ChatCompletionRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    messages: list[Any]
    n: int = 1


class CompletionRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    prompt: Any = None
    n: int = 1


class ValidationError(Exception):
    """vLLM's VLLMValidationError."""

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass
class ErrorResponse:
    error: Any


def create_error_response(error: Exception) -> ErrorResponse:
    wrong = isinstance(error, ValueError | ValidationError)
    kind, code = ("BadRequestError", 400) if wrong else ("InternalServerError", 500)
    param = getattr(error, "parameter", None)
    return ErrorResponse(SimpleNamespace(message=str(error), type=kind, code=code, param=param))


STAND_INS: dict[str, dict[str, Any]] = {
    "vllm": {"SamplingParams": SamplingParams, "TokensPrompt": tokens_prompt, "__version__": f"{TESTED[0]}+cpu"},
    "vllm.logger": {"init_logger": logging.getLogger},
    "vllm.renderers.chat_utils": {"load_chat_template": lambda path: Path(path).read_text()},
    "vllm.entrypoints.openai.chat_completion.protocol": {"ChatCompletionRequest": ChatCompletionRequest},
    "vllm.entrypoints.openai.completion.protocol": {"CompletionRequest": CompletionRequest},
    "vllm.entrypoints.serve.exception_handling.error_response": {"create_error_response": create_error_response},
}


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins, as modules; and a registry of metrics that one test's server has for itself."""
    for name, contents in STAND_INS.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(prometheus_client, "REGISTRY", CollectorRegistry())


# -- the worker ---------------------------------------------------------------------------------------------------


class Bare:
    """Of vLLM's worker what `Following` extends."""

    rank, device = 0, "cpu"

    def __init__(self, vllm_config: Any) -> None:
        self.model_config, self.scheduler_config = vllm_config.model_config, vllm_config.scheduler_config
        self.broken = False  # whether its passes give no rows

    def load_model(self) -> None:
        layers = SimpleNamespace(layers=[None] * 4)
        model = SimpleNamespace(model=layers, set_aux_hidden_state_layers=lambda numbers: None)
        self.model_runner = SimpleNamespace(model=model)

    def execute_model(self, scheduled: Any) -> None:
        rows = [] if self.broken else [TABLE[torch.tensor(scheduled.ids)]]
        batch = SimpleNamespace(req_ids=list(scheduled.num_scheduled_tokens))
        self.model_runner.execute_model_state = SimpleNamespace(aux_hidden_states=rows, input_batch=batch)

    def shutdown(self) -> None:
        pass


class Worker(Following, Bare):
    """Our worker."""


# -- the engine ---------------------------------------------------------------------------------------------------


@dataclass
class Output:
    index: int
    text: str
    token_ids: list[int]
    logprobs: list[Any] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    prompt_token_ids: list[int] | None
    outputs: list[Output]
    finished: bool
    num_cached_tokens: int = 0


@dataclass
class Sequence_:
    """One choice: the tokens it will say, and how many of prompt and answer were read. held: characters that may begin
    a stop string. beyond: tokens that are read after its end. lingers: a step more reads its last token."""

    name: str
    number: int
    prompt: list[int]
    tokens: list[int]
    spelled: Callable[[list[int]], str]
    held: int
    read: int
    ended_by: str = "length"
    stop: str | None = None
    beyond: int = 0
    lingers: bool = False
    begun: bool = False
    sent: int = 0  # characters

    @property
    def limit(self) -> int:
        return len(self.prompt) + len(self.tokens) - 1 + self.beyond + self.lingers

    @property
    def steps(self) -> int:
        """How often something is said of it."""
        return len(self.tokens) + self.lingers

    def next(self) -> list[int]:
        """Ids of its next pass: the prompt, then one token each; `Z` for what was sampled after the end."""
        ids = [*self.prompt, *self.tokens, *[Z] * self.beyond]
        return ids[self.read : max(self.read + 1, len(self.prompt))]

    def output(self, place: int, params: SamplingParams) -> Output:
        """What is said of it after so many tokens, as the kind of output wants it."""
        over = place + 1 >= self.steps
        ids = self.tokens[: place + 1]
        text = self.spelled(ids) if params.detokenize else ""
        if over and self.stop is not None:
            text = text[: text.index(self.stop)]
        elif not over:
            text = text.rstrip("\ufffd")
            text = text[: max(len(text) - self.held, 0)]
        logprobs = None if params.logprobs is None else [{token: -0.5} for token in ids]
        if params.output_kind is RequestOutputKind.DELTA:
            text, self.sent = text[self.sent :], max(len(text), self.sent)
            last = slice(place, None)
            ids, logprobs = ids[last], logprobs and logprobs[last]
        ends = (self.ended_by, self.stop) if over else (None, None)
        return Output(self.number, text, list(ids), logprobs, *ends)


class Engine:
    """vLLM's AsyncLLM. It answers what `answer` says of a prompt's text and a choice's number: a text, after which it
    ends, or token ids, which end by length.

    ahead: passes that it runs before its front hears of one. calls, requests, aborted: what it was asked.
    """

    def __init__(self, folder: Path, detector: Path, tokenizer: Any) -> None:
        self.tokenizer, self.ahead = tokenizer, 0
        self.renderer = SimpleNamespace(tokenizer=tokenizer)
        self.calls: list[str] = []
        self.requests: list[tuple[Any, SamplingParams, str]] = []
        self.aborted: list[str] = []
        self.vllm_config = config(additional_config={"groundwire": {"detector": str(detector)}})
        self.vllm_config.parallel_config.worker_cls = WORKER
        self.vllm_config.scheduler_config = SimpleNamespace(
            max_num_batched_tokens=CONTEXT, max_num_seqs=8, scheduler_cls=None
        )
        self.vllm_config.structured_outputs_config = SimpleNamespace(reasoning_parser="")
        self.model_config = self.vllm_config.model_config
        vars(self.model_config).update(
            model=str(folder), tokenizer=str(folder), revision=None, trust_remote_code=False, dtype=torch.float32
        )
        vars(self.model_config).update(max_model_len=CONTEXT, get_hidden_size=lambda: WIDTH)
        self.worker = Worker(self.vllm_config)
        self.worker.load_model()
        self._cached: list[list[int]] = []
        self._over: set[str] = set()
        self.says(GOOD)

    def says(self, *answers: str | list[int]) -> None:
        """Answer each choice in turn, the last one for all others."""
        self.answer: Callable[[str, int], str | list[int]] = lambda _, number: answers[min(number, len(answers) - 1)]

    def linger(self) -> None:
        """Have our scheduler."""
        self.vllm_config.scheduler_config.scheduler_cls = SCHEDULER

    @property
    def followed(self) -> int:
        """How many answers the worker follows."""
        return len(self.worker._gw_slots or ())

    async def collective_rpc(self, method: str, timeout: Any = None, args: Any = (), kwargs: Any = None) -> list[Any]:
        self.calls.append(method)
        await asyncio.sleep(0)
        return [None, getattr(self.worker, method)(*args)]

    async def generate(
        self, prompt: Any, params: SamplingParams, request_id: str, **more: Any
    ) -> AsyncGenerator[RequestOutput]:
        self.requests.append((prompt, params, request_id))
        ids = list(prompt["prompt_token_ids"])
        if len(ids) >= CONTEXT:
            raise ValidationError(f"{len(ids)} tokens; the context is {CONTEXT}", parameter="prompt")
        cached = 0 if params.skip_reading_prefix_cache else self._hit(ids)
        choices = [self._plan(ids, params, number, request_id, cached) for number in range(params.n)]
        self._cached.append(ids)
        finished = False
        try:
            for place in range(max(choice.steps for choice in choices)):
                await asyncio.sleep(0)
                due = [choice for choice in choices if place < choice.steps]
                while behind := [c for c in due if c.read < min(len(ids) + place + self.ahead, c.limit)]:
                    self._pass(behind, params)
                finished = all(place + 1 >= choice.steps for choice in choices)
                if params.output_kind is RequestOutputKind.FINAL_ONLY:
                    due = choices if finished else []
                if due:
                    yield RequestOutput(ids, [choice.output(place, params) for choice in due], finished, cached)
        finally:
            if not finished:
                self.aborted.append(request_id)
            self._over |= {choice.name for choice in choices}

    def _hit(self, ids: list[int]) -> int:
        """How much of a prompt the prefix cache has."""
        shared = [sum(accumulate((a == b for a, b in zip(ids, o, strict=False)), min)) for o in self._cached]
        return min(max(shared, default=0), len(ids) - 1)

    def _plan(self, ids: list[int], params: SamplingParams, number: int, request_id: str, cached: int) -> Sequence_:
        said = self.answer(self.tokenizer.decode(ids), number)
        tokens = [*self.tokenizer(said)["input_ids"], EOS] if isinstance(said, str) else said
        tokens = tokens[: params.max_tokens]
        stops = [params.stop] if isinstance(params.stop, str) else params.stop or []
        name = f"{number}_{request_id}-x" if params.n > 1 else f"{request_id}-x"  # as vLLM names them
        planned = Sequence_(name, number, ids, tokens, self._text, max(map(len, stops), default=1) - 1, cached)
        for end in range(1, len(tokens) + 1):
            stop = next((stop for stop in stops if stop in self._text(tokens[:end])), None)
            if stop is not None or tokens[end - 1] == EOS:
                return replace(planned, tokens=tokens[:end], ended_by="stop", stop=stop, beyond=self.ahead)
        wish = Wish.of(params.extra_args)
        lingers = self.vllm_config.scheduler_config.scheduler_cls == SCHEDULER and wish is not None and wish.linger
        return replace(planned, lingers=lingers and has_room(len(ids), len(tokens), CONTEXT))

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _pass(self, choices: Sequence[Sequence_], params: SamplingParams) -> None:
        """One step of the worker's."""
        new = [choice for choice in choices if not choice.begun]
        old = [choice for choice in choices if choice.begun]
        ids = {choice.name: choice.next() for choice in choices}
        announced = [
            SimpleNamespace(req_id=c.name, sampling_params=params, prompt_len=len(c.prompt), num_computed_tokens=c.read)
            for c in new
        ]
        cached = SimpleNamespace(req_ids=[c.name for c in old], num_computed_tokens=[c.read for c in old])
        over, self._over = self._over, set()
        self.worker.execute_model(
            SimpleNamespace(
                finished_req_ids=over,
                scheduled_new_reqs=announced,
                scheduled_cached_reqs=cached,
                num_scheduled_tokens={name: len(own) for name, own in ids.items()},
                total_num_scheduled_tokens=sum(map(len, ids.values())),
                ids=[token for own in ids.values() for token in own],
            )
        )
        for choice in choices:
            choice.begun, choice.read = True, choice.read + len(ids[choice.name])


# -- the handlers -------------------------------------------------------------------------------------------------


@dataclass
class Reply:
    body: dict[str, Any]

    def model_dump(self) -> dict[str, Any]:
        return self.body


class Serving:
    """vLLM's handler of one API. asked: what came. mark: what ends reasoning, which is no part of the answer."""

    def __init__(self, client: Any, tokenizer: Any, *, mark: str | None = None) -> None:
        self.engine_client, self.tokenizer, self.mark = client, tokenizer, mark
        self.asked: list[Any] = []

    async def create_chat_completion(self, request: Any, raw_request: Any) -> Any:
        return await self._create(request, [render(self.tokenizer, request.messages)], "message", "delta")

    async def create_completion(self, request: Any, raw_request: Any) -> Any:
        given = request.prompt
        prompts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        ids = [self.tokenizer(one)["input_ids"] if isinstance(one, str) else one for one in prompts]
        return await self._create(request, ids, "", "")

    async def _create(self, request: Any, prompts: list[list[int]], whole: str, part: str) -> Any:
        self.asked.append(request)
        given = request.model_extra
        kind = RequestOutputKind.DELTA if given.get("stream") else RequestOutputKind.FINAL_ONLY
        more = {"lora_request": object()} if given.get("model") == "adapter" else {}
        extra = given.get("vllm_xargs")
        common = {
            "max_tokens": given.get("max_tokens", 64),
            "stop": given.get("stop"),
            "logprobs": given.get("logprobs"),
        }
        generators = [
            self.engine_client.generate(
                {"type": "token", "prompt_token_ids": ids},
                SamplingParams(n=request.n, output_kind=kind, extra_args=extra and dict(extra), **common),
                f"cmpl-{uuid.uuid4().hex}-{i}",
                **more,
            )
            for i, ids in enumerate(prompts)
        ]
        if given.get("stream"):
            return self._events(generators, request.n, part)
        choices = []
        for i, generator in enumerate(generators):
            *_, last = [out async for out in generator]
            choices += [self._choice(i * request.n + o.index, self._content(o.text), o, whole) for o in last.outputs]
        return Reply(_reply(choices))

    async def _events(self, generators: list[Any], n: int, part: str) -> AsyncGenerator[str]:
        heard: dict[int, str] = {}
        for i, generator in enumerate(generators):
            async for out in generator:
                for output in out.outputs:
                    index = i * n + output.index
                    before = heard.get(index, "")
                    heard[index] = before + output.text
                    new = self._content(heard[index])[len(self._content(before)) :]
                    yield f"data: {json.dumps(_reply([self._choice(index, new, output, part)]))}\n\n"
        yield "data: [DONE]\n\n"

    def _content(self, text: str) -> str:
        return text if self.mark is None else text.partition(self.mark)[2].lstrip()

    def _choice(self, index: int, text: str, output: Output, name: str) -> dict[str, Any]:
        said: dict[str, Any] = {name: {"role": "assistant", "content": text}} if name else {"text": text}
        return {"index": index, **said, "logprobs": output.logprobs, "finish_reason": output.finish_reason}


def _reply(choices: list[Any]) -> dict[str, Any]:
    return {"id": "cmpl-1", "object": "completion", "created": 1, "model": "tiny", "choices": choices}


def stock(engine: Engine, plugin: Plugin, *, mark: str | None = None) -> FastAPI:
    """vLLM's app, with the plugin in it as vLLM's server puts it there."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine_client = engine
        app.state.openai_serving_models = SimpleNamespace(lora_requests={"adapter": object()})
        app.state.openai_serving_chat = Serving(engine, engine.tokenizer, mark=mark)
        app.state.openai_serving_completion = Serving(engine, engine.tokenizer)
        await plugin.init_state(engine, app.state, SimpleNamespace(chat_template=None))
        yield
        app.state.ended = True

    app = FastAPI(lifespan=lifespan)
    app.add_api_route("/v1/responses", lambda: "vLLM's own", methods=["POST"])
    for path, method in {"/v1/chat/completions": "POST", "/v1/completions": "POST", "/v1/models": "GET"}.items():
        app.add_api_route(path, lambda: "vLLM's own", methods=[method])
    attach(app, plugin)
    return app


def attach(app: FastAPI, plugin: Plugin) -> None:
    """As vLLM does: routes of a plugin replace earlier ones of the same path and method."""
    before = list(app.routes)
    plugin.attach_router(app)
    new = [route for route in app.routes if isinstance(route, APIRoute) and route not in before]
    taken = {(route.path, method) for route in new for method in route.methods}
    app.router.routes[:] = [
        route
        for route in app.routes
        if route in new or not isinstance(route, APIRoute) or taken.isdisjoint((route.path, m) for m in route.methods)
    ]


# -- fixtures -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def identity(tiny_llama_folder: Path) -> Identity:
    return identify(tiny_llama_folder)


@pytest.fixture(scope="session")
def artifact(identity: Identity) -> Artifact:
    """Scores by the made-up rows, and a little by the number of words."""
    encoder = SparseEncoder(torch.eye(TERMS, WIDTH), torch.zeros(TERMS), torch.full((TERMS,), -1e9), rectify=False)
    knots = [np.array([0.0, 1.0]), *[np.array([-1.0, 0.0, 1.0])] * (TERMS - 1)]
    values = [np.array([0.0, 4.0]), *[np.array([-0.1, 0.05, 0.1])] * (TERMS - 1)]
    scorer = Scorer(encoder, Shapes.piecewise_linear(knots, values), intercept=-1.0, token_intercept=-1.0)
    words = GroundingHead(("words",), Shapes.piecewise_linear([np.array([0.0, 8.0])], [np.array([0.0, 0.1])]))
    ids = identity.tokenizer(PROBE_TEXT)["input_ids"]
    return Artifact(
        id="tiny",
        version="1",
        model=identity.id,
        fingerprint=identity.fingerprint,
        hookpoint=HOOKPOINT,
        scorer=scorer,
        terms=(*(Term("latent", f"latent {i}", i) for i in range(TERMS)), *words.terms),
        thresholds={"balanced_accuracy": 0.5, "recall": 0.25},
        prevalence=0.5,
        spans=SpanRule(),
        probe=Probe(torch.tensor(ids), TABLE[ids[-1]]),
        grounding=words,
    )


@pytest.fixture(scope="session")
def detector_folder(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detectors") / "tiny"
    artifact.save_pretrained(folder)
    return folder


@pytest.fixture
def engine(tiny_llama_folder: Path, detector_folder: Path, identity: Identity) -> Iterator[Engine]:
    found = Engine(tiny_llama_folder, detector_folder, identity.tokenizer)
    yield found
    found.worker.shutdown()


@pytest.fixture
def connect(engine: Engine, artifact: Artifact, identity: Identity) -> Callable[[], Awaitable[Own]]:
    """`own = await connect()`: the engine's detector, as `fit` would make it."""

    async def found() -> Own:
        link = Link(engine)
        about = await link.about()
        served = ServedEngine(engine, link, identity, HOOKPOINT)
        block = RunningBlock(about.running or "", about.block)
        return Own(Detector(artifact, served, threshold=0.5), link, block)

    return found


@pytest.fixture
def serve(engine: Engine, detector_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """`server = serve(**settings)`: vLLM's server with our plugin, until the test ends. mark: see `Serving`."""
    with ExitStack() as stack:

        def start(*, mark: str | None = None, **settings: Any) -> Served:
            for name, value in {"detector": detector_folder, **settings}.items():
                monkeypatch.setenv(f"GROUNDWIRE_{name.upper()}", str(value))
            engine.vllm_config.structured_outputs_config.reasoning_parser = "some" if mark else ""
            server = stack.enter_context(running(stock(engine, Plugin(), mark=mark)))
            engine.requests.clear()  # the probe's
            return server

        yield start


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The plugin has our logs written; other tests read them where they were."""
    ours = logging.getLogger("groundwire")
    before = (ours.handlers[:], ours.level, ours.propagate)
    yield
    ours.handlers[:], ours.level, ours.propagate = before
