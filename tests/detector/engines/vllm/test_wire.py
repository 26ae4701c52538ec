"""What goes between vLLM's front and its worker."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from groundwire.engines.vllm.wire import KEY, Wish, pack, pack_rows, unpack, unpack_rows
from groundwire.errors import InputError


def test_a_wish_travels_with_the_sampling_parameters():
    wish = Wish("key", choices=3, start=5, hold=4, keep=True, running=(7, 8, 9))
    assert Wish.of(json.loads(json.dumps(wish.to_args()))) == wish
    assert Wish.of({"other": 1}) is None
    assert Wish.of(None) is None


MALFORMED = [
    *("yes", 1, [], {"key": 1}, {"key": "k", "more": 1}, {"key": "k", "choices": 0}, {"key": "k", "start": -1}),
    *(
        {"key": "k", "hold": None},
        {"key": "k", "running": [-1]},
        {"key": "k", "running": 3},
        {"key": "k", "start": "a"},
    ),
]


@pytest.mark.parametrize("given", MALFORMED)
def test_a_malformed_wish_is_refused(given):
    with pytest.raises(InputError, match=r"(?s)extra_args.*leave it out"):
        Wish.of({KEY: given})


def test_a_readout_comes_back_with_the_intercept_of_who_reads_it(scorer):
    rows = torch.ones(12, 6)
    state = scorer.fold(scorer.new_state(1), scorer.encode(rows), torch.zeros(12, dtype=torch.long))
    readout = scorer.finish(state, 0)
    shifted = dataclasses.replace(scorer, intercept=scorer.intercept + 2)
    found = unpack(pack(readout), shifted)
    assert found.logit == pytest.approx(readout.logit + 2)
    assert (found.rows, found.features) == (12, None)
    assert torch.equal(found.token_logits, readout.token_logits)


def test_rows_come_back_as_they_are():
    rows = torch.linspace(0, 1, 12).reshape(4, 3)
    assert torch.equal(unpack_rows(pack_rows(rows)), rows)
