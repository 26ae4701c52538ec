from __future__ import annotations

import warnings

import pytest
from transformers.utils import logging

from groundwire.engines.quiet import quiet


def test_warnings_and_log_lines_stay_inside_and_the_settings_come_back() -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet():
        warnings.warn("nothing a reader of the terminal can act on", stacklevel=1)
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_an_error_inside_restores_the_settings_too() -> None:
    before = logging.get_verbosity()
    with pytest.raises(KeyError), quiet():
        raise KeyError("x")
    assert logging.get_verbosity() == before
