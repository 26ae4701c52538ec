"""Is the process alive, can it take requests, and what is it? For load balancers and people."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from groundwire import __version__
from groundwire.server.errors import ApiError
from groundwire.server.models import served_name

router = APIRouter()


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"


class Ready(BaseModel):
    """The server takes requests: so many answers are being generated, so many wait."""

    status: str = "ready"
    active: int
    waiting: int


class Version(BaseModel):
    """What runs: the package, the model by its served name, the detector."""

    version: str
    model: str
    detector: dict[str, str]


@router.get("/health", response_model=Health)
async def health(request: Request) -> Health:
    """200 as long as the process answers and its model can be used; 503 means that it should be started again."""
    if not (request.app.state.loop.alive or request.app.state.stopping):
        raise ApiError(503, "The engine has ended.", code="engine_failed")
    return Health()


@router.get("/ready", response_model=Ready)
async def ready(request: Request) -> Ready:
    """200 where the server takes requests, 503 where the queue is full or the server is stopping."""
    state = request.app.state
    if not state.loop.alive:
        if state.stopping:
            raise ApiError(503, "The server is shutting down.", code="shutting_down")
        raise ApiError(503, "The engine has ended.", code="engine_failed")
    if state.loop.waiting >= state.settings.max_queue:
        raise ApiError(503, "The queue is full.", code="queue_full")
    return Ready(active=state.loop.active, waiting=state.loop.waiting)


@router.get("/version", response_model=Version)
async def version(request: Request) -> Version:
    """What runs here."""
    state = request.app.state
    artifact = (state.detector.checking or state.detector).artifact  # that of the verdicts
    return Version(
        version=__version__,
        model=served_name(state.settings, state.detector),
        detector={"id": artifact.id, "version": artifact.version, "hookpoint": artifact.hookpoint},
    )
