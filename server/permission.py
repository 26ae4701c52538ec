"""What a request may ask of the check, within what the operator allows."""

from __future__ import annotations

from groundwire.calibration import threshold_for
from groundwire.detector import Detector
from groundwire.errors import InputError
from groundwire.server.errors import ApiError
from groundwire.server.options import Options
from groundwire.server.policies import Rules, lowest_false_alarms
from groundwire.server.settings import Settings
from groundwire.types import Passage


def rules_for(options: Options, settings: Settings, detector: Detector) -> Rules | None:
    """What is to happen to the answers of a request; None where it switches checking off.

    Where the operator does not allow "annotate", answers are to be acted on: such a request may neither switch the
    check off nor raise a threshold. Raises ApiError on all that is not allowed.
    """
    bound = "annotate" not in settings.allowed_policies
    if not options.enabled:
        if bound:
            raise _refused("enabled", "this server does not deliver answers unchecked: leave it out")
        return None
    policy = options.policy or settings.policy
    if policy not in settings.allowed_policies:
        allowed = ", ".join(settings.allowed_policies)
        raise _refused("policy", f"{policy!r} is not allowed on this server: use one of {allowed}")
    threshold = _threshold(options, detector)
    if bound and threshold > detector.threshold:
        raise _refused("threshold", f"this server does not allow more than {detector.threshold:g}")
    halt = settings.halt_threshold
    if halt is None:
        # The running score is the model's own pass's, whoever gives the verdict.
        least = threshold if detector.checking is None else 0.0
        halt = lowest_false_alarms(detector.artifact.thresholds, least) or threshold
    if options.halt_threshold is not None:
        if bound and options.halt_threshold > halt:
            raise _refused("halt_threshold", f"this server does not allow more than {halt:g}")
        halt = options.halt_threshold
    return Rules(
        policy,
        threshold,
        halt,
        fail_closed=settings.on_failure == "closed",
        redaction=settings.redaction,
        block_message=settings.block_message,
    )


def given_passages(options: Options, settings: Settings) -> tuple[Passage, ...] | None:
    """The passages a request names; None where they are to be looked for.

    "There are none" is not taken from a request where the operator does not allow "annotate": it would switch the check
    off.
    """
    given = options.given()
    bound = "annotate" not in settings.allowed_policies
    return None if bound and given is not None and not any(passage.text.strip() for passage in given) else given


def check_choices(prompts: int, choices: int, settings: Settings) -> None:
    """Raise ApiError where a request asks for more answers than one may: `choices` to each of its prompts."""
    if (answers := prompts * choices) > settings.max_choices:
        param = "n" if prompts == 1 or choices > 1 else "prompt"
        message = f"{answers} answers in one request: this server gives at most {settings.max_choices}."
        raise ApiError(400, message, param=param, code="invalid_value")


def _threshold(options: Options, detector: Detector) -> float:
    if options.target is None:
        return detector.threshold if options.threshold is None else options.threshold
    if options.threshold is not None:
        raise _refused("target", "threshold and target exclude each other: send one of them")
    try:
        return threshold_for(detector.thresholds, options.target)
    except InputError as error:
        raise _refused("target", f"{error.given}; expected {error.expected}") from error


def _refused(name: str, message: str) -> ApiError:
    return ApiError(400, f"hallucination.{name}: {message}.", param=f"hallucination.{name}", code="invalid_value")
