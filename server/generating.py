"""From a parsed request to its answers: what the routers of both generating APIs share."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Sequence

from fastapi import Request
from starlette.responses import Response

from groundwire.conversation import Found
from groundwire.detector import Detector
from groundwire.server.answers import Answers, Ask
from groundwire.server.events import Done
from groundwire.server.models import check_model, served_name
from groundwire.server.observer import Observation, Observed, checks_for, marked
from groundwire.server.protocol import Generation
from groundwire.server.render import Renderer, Show
from groundwire.server.reply import Reply, Source
from groundwire.types import Example
from groundwire.types import Request as Generate


async def respond(
    body: Generation, request: Request, kind: type[Renderer], prefix: str, found: Sequence[Found]
) -> Response:
    """Answer each of the conversations `body.choices` times. Raises ApiError and InputError."""
    state = request.app.state
    settings, detector = state.settings, state.detector
    served = served_name(settings, detector)
    check_model(body.model, served)
    options, name = body.options, f"{prefix}-{uuid.uuid4().hex}"
    checks = checks_for(options, request)
    rules, watched = checks.rules, checks.observe
    places = [(conversation, choice) for conversation in found for choice in range(body.choices)]
    requests = [
        Generate(
            f"{name}-{i}",
            conversation.messages,
            body.sampling(choice, settings.max_tokens_default),
            passages=conversation.passages,
            check=rules is not None and conversation.reason is None,
            running=options.running or (rules is not None and rules.policy == "halt"),
        )
        for i, (conversation, choice) in enumerate(places)
    ]
    ask = Ask(name, requests, [c.reason for c, _ in places], rules, shrink=body.token_limit is None)
    show = Show(options.top_terms, options.tokens, options.running, options.mirror, body.include_usage)
    renderer = kind(name, served, int(time.time()), fingerprint(detector), show, _Spelling(detector).spell)
    asked = [one.messages for one in requests]
    answers: Source = Answers(state.loop, ask)
    if watched is not None:
        answers = Observed(answers, lambda done: state.observer.offer(_observation(ask, done, served, watched)))
    reply = Reply(request, answers, renderer, asked, per_prompt=body.choices)
    response = await (reply.stream(include_usage=body.include_usage) if body.stream else reply.whole())
    return marked(response) if checks.observing else response


def _observation(ask: Ask, done: Done, model: str, threshold: float) -> Observation:
    request = ask.requests[done.index]
    example = Example(request.id, request.messages, done.answer, passages=request.passages)
    return Observation(example, "engine", model, threshold, ask.reasons[done.index])


def fingerprint(detector: Detector) -> str:
    """OpenAI's `system_fingerprint`: changes with the model, its tokenizer and the detector."""
    artifact, checking = detector.artifact, detector.checking
    parts = [sorted(detector.engine.fingerprint.items()), artifact.id, artifact.version]
    parts += ["checking", checking.artifact.version] if checking is not None else []
    return "fp_" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


class _Spelling:
    """The text of token ids, each looked up once per request."""

    def __init__(self, detector: Detector) -> None:
        self._tokenizer = detector.tokenizer
        self._known: dict[int, str] = {}

    def spell(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return self._known[token]
