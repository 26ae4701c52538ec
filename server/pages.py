"""The page at `/`, for people: plain HTML, CSS and JavaScript from `static/`, nothing from elsewhere.

What can be fetched is a list made from that folder, so no path leads out of it.
"""

from __future__ import annotations

import hashlib
import html
import json
from importlib.resources import files
from pathlib import PurePath

from fastapi import APIRouter, HTTPException, Request
from starlette.responses import Response

from groundwire.server.models import served_name
from groundwire.server.policies import POLICIES

METHODS = ["GET", "HEAD"]
PAGE = "index.html"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
STATIC = {file.name: file.read_bytes() for file in files("groundwire.server").joinpath("static").iterdir()}

# Scripts and styles of this server only, and no text may become markup, whatever the page's own code does with it.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # kept, but asked for again each time: a new version never mixes with an old one
}

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=METHODS)
async def page(request: Request) -> Response:
    """The page, told what this server allows."""
    state = request.app.state
    settings = state.settings
    gateway, observes = settings.upstream_url is not None, settings.observe_share is not None
    refused = set(POLICIES) - {"annotate"} if observes else {"halt"} if gateway else set()
    known = {
        "model": None if gateway else served_name(settings, state.detector),  # an upstream has models of its own
        "running": not (gateway or observes),
        "policy": settings.policy,
        "policies": [name for name in settings.allowed_policies if name not in refused],
        "key": bool(settings.api_keys or settings.api_keys_file),
    }
    filled = STATIC[PAGE].decode().replace("{{settings}}", html.escape(json.dumps(known)))
    return _reply(request, filled.encode(), PAGE)


@router.api_route("/static/{name}", methods=METHODS)
async def static(name: str, request: Request) -> Response:
    """A file of the page. The page itself is at `/` alone."""
    if name == PAGE or name not in STATIC:
        raise HTTPException(404)
    return _reply(request, STATIC[name], name)


def _reply(request: Request, body: bytes, name: str) -> Response:
    """`body`, or 304 where the client has it."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    headers = HEADERS | {"etag": tag}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=TYPES[PurePath(name).suffix], headers=headers)
