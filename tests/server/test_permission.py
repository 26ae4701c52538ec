from __future__ import annotations

from typing import Any

import pytest

from groundwire.engines.fake import fake_detector
from groundwire.server.errors import ApiError
from groundwire.server.options import Options
from groundwire.server.permission import check_choices, given_passages, rules_for
from groundwire.server.policies import Rules
from groundwire.server.settings import Settings


def rules(settings: dict[str, Any] | None = None, **options: Any) -> Rules | None:
    return rules_for(Options.model_validate(options), Settings(**settings or {}), fake_detector())


def refused(settings: dict[str, Any] | None = None, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as error:
        rules(settings, **options)
    assert error.value.status_code == 400
    return error.value


def test_defaults_are_the_operators():
    found = rules({"policy": "block", "on_failure": "closed", "block_message": "no", "redaction": "-"})
    assert found == Rules("block", 0.5, 0.5, fail_closed=True, redaction="-", block_message="no")


def test_a_request_chooses_among_what_is_allowed():
    found = rules(policy="redact", threshold=0.7, halt_threshold=0.9)
    assert found is not None
    assert (found.policy, found.threshold, found.halt_threshold) == ("redact", 0.7, 0.9)
    assert rules({"allowed_policies": ("annotate", "block")}, policy="block") is not None


def test_what_the_operator_does_not_allow_is_refused():
    error = refused({"allowed_policies": ("annotate",)}, policy="regenerate")
    assert error.param == "hallucination.policy"
    assert "use one of annotate" in error.message


def test_checking_can_be_switched_off_where_annotating_is_allowed():
    assert rules(enabled=False) is None
    bound = {"policy": "block", "allowed_policies": ("block", "redact")}
    assert refused(bound, enabled=False).param == "hallucination.enabled"
    assert refused(bound, threshold=1.0).param == "hallucination.threshold"
    halting = {"policy": "halt", "allowed_policies": ("halt",)}
    assert refused(halting, halt_threshold=1.0).param == "hallucination.halt_threshold"
    assert rules(bound, threshold=0.3, halt_threshold=0.3) is not None


def test_a_target_is_looked_up():
    found = rules(target="Balanced-Accuracy")
    assert found is not None
    assert found.threshold == 0.5
    assert refused(target="fpr<=0.5").param == "hallucination.target"
    assert refused(target="balanced_accuracy", threshold=0.2).param == "hallucination.target"


def test_the_operators_halt_threshold_comes_before_the_detectors():
    found = rules({"halt_threshold": 0.65})
    assert found is not None
    assert found.halt_threshold == 0.65
    raised = rules(threshold=0.9)
    assert raised is not None
    assert raised.halt_threshold == 0.9


def test_so_many_choices_and_no_more():
    check_choices(2, 4, Settings())
    with pytest.raises(ApiError, match="at most 8") as error:
        check_choices(1, 1000, Settings())
    assert (error.value.status_code, error.value.param) == (400, "n")


@pytest.mark.parametrize("none", [[], [" "], ["", {"text": "\n"}]])
def test_that_there_are_no_passages_is_taken_only_where_answers_may_go_out_as_they_are(none):
    options = Options.model_validate({"passages": none})
    bound = Settings(policy="block", allowed_policies=("block",))
    assert given_passages(options, Settings()) is not None
    assert given_passages(options, bound) is None
    named = given_passages(Options.model_validate({"passages": ["The light."]}), bound)
    assert [passage.text for passage in named or ()] == ["The light."]
