"""Settings that vLLM has itself are refused; limits are vLLM's unless the operator sets one."""

from __future__ import annotations

import pytest

from groundwire.errors import InputError
from groundwire.server.settings import Settings, flag
from groundwire.server.vllm.settings import THEIRS, WIDE, vllm_settings

GIVEN = {"port": 1, "max_batch": 2, "max_tokens_default": 3, "metrics_open": True, "upstream_timeout": 4.0}


def test_every_name_is_that_of_a_setting():
    assert THEIRS.keys() <= Settings.model_fields.keys()
    assert WIDE.keys() <= Settings.model_fields.keys()
    assert THEIRS.keys().isdisjoint(WIDE)


@pytest.mark.parametrize("name", sorted(THEIRS))
def test_what_is_vllm_s_own_is_refused_with_what_to_use(name):
    value = ("a" * 64,) if name == "api_keys" else GIVEN.get(name, "x")
    with pytest.raises(InputError) as raised:
        vllm_settings(Settings(**{name: value}))
    assert flag(name) in str(raised.value)
    assert THEIRS[name] in str(raised.value)


def test_limits_are_wide_where_none_is_given():
    found = vllm_settings(Settings(threshold=0.3))
    assert {name: getattr(found, name) for name in WIDE} == WIDE
    assert (found.threshold, found.policy) == (0.3, "annotate")
    for name, wide in WIDE.items():
        assert wide > Settings.model_fields[name].default


@pytest.mark.parametrize("name", sorted(WIDE))
def test_a_limit_that_is_given_holds(name):
    found = vllm_settings(Settings(**{name: 5}))
    assert getattr(found, name) == 5
    assert [other for other in WIDE if getattr(found, other) == WIDE[other]] == [n for n in WIDE if n != name]
