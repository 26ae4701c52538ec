"""The application: settings and a detector in, an ASGI app out. Wiring only.

RequestLog (ids, log, metrics, what nobody caught) > Limits > Auth > routers
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from groundwire import __version__
from groundwire.detector import DEFAULT_TARGET, Detector
from groundwire.server import (
    chat,
    completions,
    detect,
    errors,
    gateway,
    health,
    metrics,
    models,
    pages,
    schema,
    tracing,
)
from groundwire.server.auth import Auth, Keys
from groundwire.server.engine_loop import EngineLoop
from groundwire.server.gateway import check_gateway
from groundwire.server.limits import Limits
from groundwire.server.logs import RequestLog
from groundwire.server.observer import Observer, check_observer
from groundwire.server.settings import Settings
from groundwire.server.upstream import Upstream
from groundwire.server.verdict_log import VerdictLog, check_log

ENGINE = (chat.router, completions.router, models.router)
GATEWAY = (gateway.router,)
ROUTERS = (detect.router, health.router, metrics.router, pages.router)


def load_detector(settings: Settings) -> Detector:
    """The detector that the settings name. Raises what `Detector.from_pretrained` raises."""
    return Detector.from_pretrained(
        settings.detector,
        model=settings.model,
        threshold=settings.threshold,
        target=settings.target or DEFAULT_TARGET,
        prevalence=settings.prevalence,
        reading=settings.reading,
    )


def create_app(
    settings: Settings, detector: Detector | None = None, *, routers: Sequence[APIRouter] | None = None
) -> FastAPI:
    """The endpoint. Without `detector`, the one that the settings name is loaded when the app starts.

    routers: in the place of those that the settings ask for. Raises InputError where the keys' file, the verdict log or
    the upstream cannot be used.
    """
    if settings.verdict_log is not None:
        check_log(settings.verdict_log)
    check_observer(settings)
    if settings.upstream_url is not None:
        check_gateway(settings)
    app = FastAPI(
        title="Groundwire",
        version=__version__,
        summary="An OpenAI-compatible API whose answers say whether they stay with their passages.",
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=serving,
        responses={"4XX": {"model": errors.ErrorBody}, "5XX": {"model": errors.ErrorBody}},
        **tracing.NATIVE,
    )
    state = app.state
    state.settings, state.detector, state.metrics = settings, detector, metrics.Metrics()
    state.tracing = tracing.Tracing()
    state.loop = state.verdict_log = state.upstream = state.observer = None
    state.stopping, state.started = False, int(time.time())
    own = (GATEWAY if settings.upstream_url else ENGINE) + ROUTERS
    for router in own if routers is None else routers:
        app.include_router(router)
    errors.install(app)
    schema.install(app)
    app.add_middleware(Auth, keys=Keys.of(settings), metrics_open=settings.metrics_open)
    app.add_middleware(
        Limits,
        max_body_bytes=settings.max_body_bytes,
        body_timeout=settings.body_timeout,
        timeout=settings.request_timeout,
    )
    app.add_middleware(RequestLog, metrics=state.metrics, tracing=state.tracing)  # the last one added is the outermost
    return app


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[None]:
    """What runs beside the requests: the engine's thread (unless the app has its loop already), the verdict log's."""
    state, settings = app.state, app.state.settings
    if state.detector is None:
        state.detector = await asyncio.to_thread(load_detector, settings)
    state.verdict_log = _verdict_log(app)
    if state.loop is None:
        state.loop = EngineLoop(state.detector, max_batch=settings.max_batch, max_queue=settings.max_queue)
    state.loop.start()
    if settings.upstream_url is not None:
        state.upstream = Upstream(settings)
    if settings.observe_share is not None:
        state.observer = Observer(state, settings.observe_share)
        state.observer.start()
    state.metrics.watch_queue(lambda: state.loop.waiting, lambda: state.loop.active)
    try:
        yield
    finally:
        state.stopping = True
        if state.observer is not None:
            await state.observer.stop()
        await state.loop.stop(settings.shutdown_seconds)
        if state.upstream is not None:
            await state.upstream.close()
        if state.verdict_log is not None:
            await asyncio.to_thread(state.verdict_log.close)
        await asyncio.to_thread(state.tracing.flush)


def _verdict_log(app: FastAPI) -> VerdictLog | None:
    settings, metrics_ = app.state.settings, app.state.metrics
    if settings.verdict_log is None:
        return None
    return VerdictLog(
        settings.verdict_log,
        text=settings.verdict_log_text,
        max_bytes=settings.verdict_log_bytes,
        files=settings.verdict_log_files,
        dropped=metrics_.verdict_dropped,
    )
