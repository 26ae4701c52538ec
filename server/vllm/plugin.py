"""vLLM's endpoint plugin: its generating routes give way to ours, which have vLLM's handlers answer.

    client ─▶ vLLM's app and middleware ─▶ our app ─▶ Relay ─▶ vLLM's handler ─▶ FollowingClient ─▶ vLLM's engine
                                                          ▲ verdict: OwnJudge ◀─ Link ◀─ worker: Slots

Named in VLLM_PLUGINS (`groundwire`); the worker in --worker-cls, the scheduler in --scheduler-cls. Everything else of
vLLM's API stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from groundwire.engines.vllm.refusals import TESTED
from groundwire.engines.vllm.scheduler import SCHEDULER
from groundwire.errors import CaptureError, InputError
from groundwire.server import detect, logs, tracing
from groundwire.server.app import create_app, load_detector, serving
from groundwire.server.errors import ApiError
from groundwire.server.settings import Settings
from groundwire.server.vllm import routes
from groundwire.server.vllm.fit import Beside, fit, training_commands
from groundwire.server.vllm.follow import FollowingClient
from groundwire.server.vllm.scoring import Scoring
from groundwire.server.vllm.settings import vllm_settings

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/detect")
# Routes of vLLM's that answer as well, and give no verdicts.
OTHERS = ("/invocations", "/v1/chat/completions/batch", "/v1/messages", "/v1/responses", "/v2/chat")
HANDLERS = ("openai_serving_chat", "openai_serving_completion")


class Plugin:
    """See vLLM's `EndpointPlugin`."""

    name = "groundwire"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._ours: FastAPI | None = None
        self._stack = AsyncExitStack()

    def attach_router(self, app: FastAPI) -> None:
        """Put our routes in the place of vLLM's. Raises InputError on settings that cannot be used."""
        settings = vllm_settings(Settings.load({}))
        logs.configure_ours(settings.log_level)
        tracing.configure()
        self._ours = create_app(settings, routers=(routes.router, detect.router))
        self._ours.state.vllm_app = app
        for path in PATHS:
            app.add_api_route(path, _through(self._ours), methods=["POST"], response_model=None)
        if _bound(settings):
            there = {getattr(route, "path", None) for route in app.routes}
            for other in (path for path in OTHERS if path in there):
                app.add_api_route(other, _closed, methods=["POST"], response_model=None)
        app.router.lifespan_context = _then(app.router.lifespan_context, self._stack)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Find out who gives the verdicts, and begin. Raises what `fit` raises: the server does not start then."""
        if engine_client is None or self._ours is None:
            raise CaptureError("a server of vLLM's without an engine", expected="`vllm serve`", remedy="use that")
        say = _logger().info
        ours, settings = self._ours.state, self._ours.state.settings
        ours.vllm, ours.own = state, None
        ours.reasons = bool(engine_client.vllm_config.structured_outputs_config.reasoning_parser)
        found = await fit(engine_client, args, settings)
        if settings.policy == "halt" and (isinstance(found, Beside) or ours.reasons):
            raise InputError(
                "policy 'halt' where there is no score so far",
                expected="a detector of the served model, and no --reasoning-parser",
                remedy="choose another policy",
            )
        if isinstance(found, Beside):
            ours.detector = await asyncio.to_thread(load_detector, settings)
            _tell_beside(found, ours.detector, engine_client.model_config.model, say)
        else:
            ours.own, ours.detector = found, found.detector
            ours.loop = Scoring(found.detector, max_queue=settings.max_queue, busy=_unfinished(engine_client))
            for name in HANDLERS:
                if getattr(state, name, None) is not None:
                    getattr(state, name).engine_client = FollowingClient(engine_client)
            say("Groundwire: verdicts come from this model's own forward pass (detector %s).", found.detector.id)
            if engine_client.vllm_config.scheduler_config.scheduler_cls != SCHEDULER:
                say(
                    "Groundwire: an answer that ends by length costs one more request; %s spares it.",
                    f"--scheduler-cls {SCHEDULER}",
                )
        if settings.policy != "annotate" and not _bound(settings):
            paths = ", ".join(OTHERS)
            _logger().warning("Groundwire: policy %s is not applied to %s.", settings.policy, paths)
        _check_release()
        _publish(ours.metrics.registry)
        await self._stack.enter_async_context(serving(self._ours))


class Through(Response):
    """A response that is another app's."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope}, receive, send)


def _bound(settings: Settings) -> bool:
    """Whether no answer may go out unchecked."""
    return "annotate" not in settings.allowed_policies or settings.on_failure == "closed"


async def _closed() -> Response:
    """Refused: this server delivers no answer unchecked, and this route gives no verdicts."""
    why = f"This server does not deliver answers unchecked: use {PATHS[0]} or {PATHS[1]}."
    return ApiError(403, why, code="unchecked_route").response()


def _through(app: FastAPI) -> Any:
    async def endpoint(request: Request) -> Response:
        """Answered by Groundwire; every choice carries its verdict in `hallucination`."""
        return Through(app)

    return endpoint


def _then(lifespan: Any, stack: AsyncExitStack) -> Any:
    """A lifespan at whose end the stack is closed."""

    @asynccontextmanager
    async def both(app: Any) -> AsyncIterator[Any]:
        async with lifespan(app) as found:
            try:
                yield found
            finally:
                await stack.aclose()

    return both


def _tell_beside(found: Beside, detector: Any, model: str, say: Any) -> None:
    say("Groundwire: no detector fits %s (%s).", model, found.why)
    say(
        "Groundwire: %s reads prompts and answers beside the engine and judges them; `detector.same_model` is false.",
        detector.engine.model_id,
    )
    say("Groundwire: to train a detector for this model:\n%s", training_commands(model))


def _unfinished(client: Any) -> Callable[[], int]:
    """How many requests vLLM's engine has."""
    processor = getattr(client, "output_processor", None)
    return processor.get_num_unfinished_requests if processor is not None else lambda: 0


def _check_release() -> None:
    import vllm

    if vllm.__version__.split("+")[0] not in TESTED:
        _logger().warning("Groundwire: vLLM %s is not among the tested: %s.", vllm.__version__, ", ".join(TESTED))


def _publish(registry: Any) -> None:
    """Have vLLM's /metrics show ours too, but for what both have."""
    import prometheus_client

    class Ours:
        def collect(self) -> Any:
            return [family for family in registry.collect() if family.name.startswith("groundwire")]

    prometheus_client.REGISTRY.register(Ours())


def _logger() -> Any:
    from vllm.logger import init_logger

    return init_logger("vllm.groundwire")
