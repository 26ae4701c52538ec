"""Every error says what was given, what was expected and what to do, and can be caught at one place."""

from __future__ import annotations

import inspect

import pytest

from groundwire import errors

TREE = {
    "InputError": "GroundwireError",
    "PromptTooLong": "InputError",
    "ModelError": "GroundwireError",
    "FetchError": "ModelError",
    "DictionaryError": "GroundwireError",
    "ArtifactError": "GroundwireError",
    "CaptureError": "GroundwireError",
    "MissingExtra": "GroundwireError",
}


def test_the_tree_is_what_its_page_says():
    classes = inspect.getmembers(errors, inspect.isclass)
    assert {name: c.__base__.__name__ for name, c in classes if name != "GroundwireError"} == TREE
    assert all(name in (errors.__doc__ or "") for name in TREE)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "a stone"),
        ({"expected": "bread"}, "a stone\n  Expected: bread"),
        ({"remedy": "bake"}, "a stone\n  To fix: bake"),
        ({"expected": "bread", "remedy": "bake"}, "a stone\n  Expected: bread\n  To fix: bake"),
    ],
)
def test_a_message_has_given_expected_and_remedy(parts, message):
    error = errors.InputError("a stone", **parts)
    assert str(error) == message
    assert vars(error) == {"given": "a stone", "expected": "", "remedy": ""} | parts


def test_a_missing_extra_names_the_pip_line():
    error = errors.MissingExtra("fastapi", "server")
    assert str(error) == 'fastapi is not installed\n  To fix: pip install "groundwire[server]"'
