"""The models that can be asked: one, by the name it is served under."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from groundwire.detector import Detector
from groundwire.server.errors import ApiError, clean
from groundwire.server.settings import Settings

router = APIRouter(prefix="/v1/models")


class Model(BaseModel):
    """A model as OpenAI describes one. `created` is when this server started, in Unix seconds."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "groundwire"


class ModelList(BaseModel):
    """All models."""

    object: str = "list"
    data: list[Model]


def served_name(settings: Settings, detector: Detector) -> str:
    """The name that clients ask for."""
    return settings.served_model_name or detector.engine.model_id


def check_model(name: str, served: str) -> None:
    """Raise ApiError where a request asks for another model than the one that is served."""
    if name != served:
        message = f"The model '{clean(name)}' does not exist here. This server has '{served}'."
        raise ApiError(404, message, param="model", code="model_not_found")


@router.get("", response_model=ModelList)
async def list_models(request: Request) -> dict[str, Any]:
    """The models that can be asked."""
    return {"data": [_model(request)]}


@router.get("/{model:path}", response_model=Model)
async def get_model(model: str, request: Request) -> dict[str, Any]:
    """One model."""
    check_model(model, _model(request)["id"])
    return _model(request)


def _model(request: Request) -> dict[str, Any]:
    state = request.app.state
    return {"id": served_name(state.settings, state.detector), "created": state.started}
