"""What one request asks the engine for, followed in every way its handlers may ask; halted; forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from groundwire.calibration import sigmoid
from groundwire.engines.vllm.running import BLOCK
from groundwire.engines.vllm.slots import ROOM
from groundwire.engines.vllm.wire import KEY, unpack
from groundwire.server.vllm.fit import Own
from groundwire.server.vllm.follow import AHEAD, Follow, FollowingClient, finish, take
from tests.server.vllm.conftest import BAD, CONTEXT, EOS, GOOD, RequestOutputKind, SamplingParams, assert_same, folded

CUMULATIVE, DELTA, FINAL_ONLY = RequestOutputKind
PROMPT = {"type": "token", "prompt_token_ids": [5, 6, 7, 8]}
CUT = "It was finished in Zion"  # where the score of BAD is heard to be too high
BEYOND = 0.5


class Followed:
    """A request to the engine, followed; and what its handler heard."""

    def __init__(self, engine: Any, own: Own, follow: Follow) -> None:
        self.engine, self.own, self.follow = engine, own, follow
        self.client = FollowingClient(engine)
        self.outputs: list[Any] = []

    def ask(self, prompt: Any = PROMPT, name: str = "r", lora: Any = None, **params: Any) -> Any:
        """The generator of a request."""
        more = {} if lora is None else {"lora_request": lora}
        with self.follow.current():
            return self.client.generate(prompt, SamplingParams(**{"max_tokens": 64, **params}), name, **more)

    async def answer(self, **given: Any) -> None:
        """Ask, and hear all of it."""
        self.outputs = [out async for out in self.ask(**given)]

    def heard(self, kind: RequestOutputKind) -> dict[int, tuple[str, list[int], str | None]]:
        """Text, ids and finish reason of each choice, as a handler puts them together."""
        found: dict[int, tuple[str, list[int], str | None]] = {}
        for out in self.outputs:
            for one in out.outputs:
                text, ids, _ = found.get(one.index, ("", [], None)) if kind is DELTA else ("", [], None)
                found[one.index] = (text + one.text, [*ids, *one.token_ids], one.finish_reason)
        return found

    async def readout(self, index: int, count: int) -> Any:
        """The worker's readout of the first tokens of a choice; None where it has none."""
        choice = self.follow.choice(index)
        assert choice is not None
        (data,) = await self.own.link.take([take(choice, count, 0)])
        return data and unpack(data, self.own.detector.artifact.scorer)

    @property
    def wish(self) -> Any:
        """What the engine was told of its last request."""
        return (self.engine.requests[-1][1].extra_args or {}).get(KEY)


@pytest.fixture
def following(engine, connect) -> Callable[..., None]:
    """`following(work, **options)`: runs `work` with a request that is followed, and closed afterwards."""

    @asynccontextmanager
    async def opened(options: Any) -> AsyncIterator[Followed]:
        own = await connect()
        intercept = own.detector.artifact.scorer.intercept
        follow = Follow(own.link, own.block, intercept=intercept, **options)
        try:
            yield Followed(engine, own, follow)
        finally:
            follow.close()

    def run(work: Callable[[Followed], Awaitable[None]], **options: Any) -> None:
        async def main() -> None:
            async with opened(options) as one:
                await work(one)
            await settled()
            assert engine.followed == 0

        asyncio.run(asyncio.wait_for(main(), 20))

    return run


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def ids_of(engine: Any, text: str) -> list[int]:
    return engine.tokenizer(text)["input_ids"]


# -- heard


@pytest.mark.parametrize("kind", RequestOutputKind)
@pytest.mark.parametrize("halts", [None, lambda score: False])
def test_choices_are_heard_in_every_kind_of_output(engine, following, kind, halts):
    engine.says(GOOD, "In 1889.")

    async def work(one: Followed) -> None:
        await one.answer(n=2, output_kind=kind, logprobs=1)
        assert one.follow.prompts == 1
        assert one.follow.choice(2) is None
        for index, text in enumerate([GOOD, "In 1889."]):
            choice = one.follow.choice(index)
            assert (choice.text, choice.ids, choice.ended_by) == (text, [*ids_of(engine, text), EOS], "stop")
            assert (choice.visible, choice.rows) == (choice.ids[:-1], len(choice.ids) - 1)
            assert (choice.over, choice.halted, choice.asked.ids) == (True, False, PROMPT["prompt_token_ids"])
            assert one.heard(kind)[index] == (text, choice.ids, "stop")
            assert_same(await one.readout(index, choice.rows), folded(engine_scorer(one), choice.visible))
        assert one.engine.requests[-1][1].output_kind is (CUMULATIVE if halts and kind is FINAL_ONLY else kind)
        assert engine.aborted == []

    following(work, halts=halts)


def engine_scorer(one: Followed) -> Any:
    return one.own.detector.artifact.scorer


def test_prompts_are_numbered_in_their_order(engine, following):
    engine.says(GOOD, "In 1889.")

    async def work(one: Followed) -> None:
        generators = [one.ask(name=name, n=2) for name in "ab"]
        for generator in generators:
            async for _ in generator:
                pass
        assert one.follow.prompts == 2
        assert [one.follow.choice(i).text for i in range(4)] == [GOOD, "In 1889."] * 2
        assert one.follow.choice(4) is None

    following(work)


def test_what_ended_an_answer_says_which_tokens_are_seen(engine, following):
    engine.says(ids_of(engine, GOOD))

    async def work(one: Followed) -> None:
        await one.answer(max_tokens=4)
        choice = one.follow.choice(0)
        assert (choice.ended_by, choice.visible, choice.rows) == ("length", choice.ids, 3)
        await one.answer(stop=["in 18", "never"])
        choice = one.follow.choice(1)
        assert (choice.ended_by, choice.stop, choice.text) == ("stop", "in 18", "It was finished ")
        assert (choice.visible, choice.ids) == (choice.ids, ids_of(engine, "It was finished in 1889"))

    following(work)


# -- what goes to the engine


def test_a_client_s_own_entry_is_taken_out_whether_followed_or_not(engine, following):
    async def work(one: Followed) -> None:
        theirs = {KEY: {"key": "x", "rows": True}, "other": 1}
        async for _ in one.client.generate(PROMPT, SamplingParams(extra_args=dict(theirs)), "r"):
            pass
        assert engine.requests[-1][1].extra_args == {"other": 1}
        assert one.follow.prompts == 0
        await one.answer(extra_args=dict(theirs))
        assert (one.wish["key"], one.wish["rows"]) == (one.follow.choice(0).asked.key, False)
        assert engine.requests[-1][1].extra_args["other"] == 1
        assert one.client.model_config is engine.model_config  # all else is the engine's own

    following(work)


def test_answers_of_an_adapter_are_not_followed(engine, following):
    async def work(one: Followed) -> None:
        await one.answer(lora=object())
        assert one.wish is None
        assert one.follow.choice(0).asked.foreign
        assert (one.follow.choice(0).text, one.follow.running(0)) == (GOOD, None)
        assert engine.followed == 0

    following(work, running=True)


@pytest.mark.parametrize(
    ("stop", "hold", "keep"),
    [
        (None, 1, False),
        ("end", 3 + AHEAD, False),
        (["a", "é"], 2 + AHEAD, False),
        (["x" * (ROOM // 2 - AHEAD)], ROOM // 2, False),
        (["x" * (ROOM // 2 - AHEAD + 1), "a"], 1, True),
    ],
)
def test_stop_strings_hold_rows_back(engine, following, stop, hold, keep):
    async def work(one: Followed) -> None:
        await one.answer(stop=stop)
        assert (one.wish["hold"], one.wish["keep"]) == (hold, keep)

    following(work)


def test_late_rows_are_kept_and_have_no_score_so_far(engine, following):
    async def work(one: Followed) -> None:
        await one.answer()
        assert (one.wish["keep"], one.wish["running"]) == (True, [])
        assert one.follow.running(0) is None

    following(work, late=True, running=True)


@pytest.mark.parametrize("stop", ["in 18", "in 1889 and nothing else"])
def test_the_rows_of_an_answer_that_a_stop_string_cut(engine, following, stop):
    engine.says(f"{GOOD[:-1]} and nothing else.")
    engine.ahead = 3

    async def work(one: Followed) -> None:
        await one.answer(stop=stop)
        shown = ids_of(engine, "It was finished in")
        assert_same(await one.readout(0, len(shown)), folded(engine_scorer(one), shown))

    following(work)


# -- scores so far


@pytest.mark.parametrize("kind", [CUMULATIVE, DELTA])
def test_scores_so_far_come_without_a_call(engine, following, kind):
    engine.says(BAD, GOOD)
    said: list[str] = []

    async def work(one: Followed) -> None:
        calls, scores = len(engine.calls), []
        assert one.follow.running(0) is None
        async for _ in one.ask(n=2, output_kind=kind):
            scores.append((one.follow.running(0), one.follow.running(1)))
        assert len(engine.calls) == calls
        ids, scorer = ids_of(engine, BAD), engine_scorer(one)
        for number, (score, _) in enumerate(scores):
            if number < 2:  # the newest row lies aside, and the newest token has none yet
                assert score is None
            else:
                wanted = folded(scorer, ids[: number - 1]).logit + 0.5
                assert score == pytest.approx(sigmoid(wanted), abs=1e-9)
        assert max(score for _, score in scores if score) < BEYOND < scores[-1][0]
        assert BAD in said

    def added(text: str) -> float:
        said.append(text)
        return 0.5

    following(work, running=True, added=[added, lambda text: 0.0])


def test_they_are_not_there_unless_wanted_nor_where_there_is_no_place(engine, following):
    async def unwanted(one: Followed) -> None:
        await one.answer()
        assert (one.wish["running"], one.follow.running(0)) == ([], None)

    async def full(one: Followed) -> None:
        places = one.own.block.lend(BLOCK)
        await one.answer(n=2)
        assert (one.wish["running"], one.follow.running(0), one.follow.choice(1).text) == ([], None, GOOD)
        one.own.block.give_back(places)

    following(unwanted)
    following(full, running=True)


# -- halted


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_an_answer_is_halted_before_the_token_that_its_score_is_too_high_at(engine, following, kind):
    engine.says(BAD)

    async def work(one: Followed) -> None:
        await one.answer(output_kind=kind, logprobs=1)
        ids = ids_of(engine, CUT)
        assert one.heard(kind) == {0: (CUT, ids, "stop")}
        assert [out.finished for out in one.outputs] == [False] * (len(one.outputs) - 1) + [True]
        last = one.outputs[-1].outputs[0]
        assert (last.stop_reason, len(last.logprobs)) == (None, 0 if kind is DELTA else len(ids))
        choice = one.follow.choice(0)
        assert (choice.halted, choice.text, choice.visible, choice.rows) == (True, CUT, ids, len(ids))
        assert_same(await one.readout(0, len(ids)), folded(engine_scorer(one), ids))
        assert engine.aborted == ["r"]

    following(work, halts=lambda score: score > BEYOND)


@pytest.mark.parametrize("kind", RequestOutputKind)
@pytest.mark.parametrize("says", [(BAD, GOOD), (GOOD, BAD), (BAD, GOOD + " It is high."), (BAD, BAD)])
def test_each_choice_is_halted_for_itself(engine, following, kind, says):
    engine.says(*says)

    async def work(one: Followed) -> None:
        await one.answer(n=2, output_kind=kind)
        texts = [CUT if text is BAD else text for text in says]
        heard = one.heard(kind)
        assert [(heard[i][0], heard[i][2]) for i in range(2)] == [(text, "stop") for text in texts]
        assert [one.follow.choice(i).halted for i in range(2)] == [text is BAD for text in says]
        assert [one.follow.choice(i).text for i in range(2)] == texts
        assert [out.finished for out in one.outputs] == [False] * (len(one.outputs) - 1) + [True]
        longest = max(says, key=len)
        assert engine.aborted == (["r"] if longest is BAD else [])  # else vLLM has nothing left to say

    following(work, halts=lambda score: score > BEYOND)


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_what_may_begin_a_stop_string_is_not_part_of_a_halted_answer(engine, following, kind):
    """vLLM holds it back, and the score so far waits for rows that a stop string may take away."""
    engine.says(f"{BAD} Answer the question using only the passages below.")

    async def work(one: Followed) -> None:
        await one.answer(output_kind=kind, stop="????")
        choice = one.follow.choice(0)
        assert (choice.halted, one.heard(kind)[0][0]) == (True, choice.text)
        said = engine.tokenizer.decode(choice.ids)
        assert choice.text == said[:-3]
        shown = ids_of(engine, choice.text)
        assert choice.ids[: len(shown) - 1] == shown[:-1]  # the last token is seen in part
        assert_same(await one.readout(0, len(shown)), folded(engine_scorer(one), choice.ids[: len(shown)]))

    following(work, halts=lambda score: score > BEYOND)


# -- forgotten


def test_closing_ends_what_runs_and_gives_all_back(engine, following):
    async def work(one: Followed) -> None:
        begun, waiting = one.ask(name="begun", n=2), one.ask(name="waiting")
        await anext(begun)
        assert engine.followed == 2
        one.follow.close()
        await settled()
        assert engine.aborted == ["begun"]
        assert engine.followed == 0
        assert [request[2] for request in engine.requests] == ["begun"]  # what had not begun never does
        with pytest.raises(StopAsyncIteration):
            await anext(begun)
        with pytest.raises(StopAsyncIteration):
            await anext(waiting)
        assert one.follow.choice(0) is None
        assert one.follow.running(0) is None
        assert len(one.own.block.lend(BLOCK)) == BLOCK
        one.follow.close()

    following(work, running=True)


def test_a_request_whose_reader_goes_away_is_aborted(engine, following):
    async def work(one: Followed) -> None:
        outputs = one.ask()
        await anext(outputs)
        await outputs.aclose()
        assert engine.aborted == ["r"]

    following(work)


# -- the last token


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("n", [1, 3])
def test_the_last_token_of_an_answer_that_ended_by_length_is_read_afterwards(engine, following, ahead, n):
    engine.says(ids_of(engine, BAD), ids_of(engine, GOOD))
    engine.ahead = ahead

    async def work(one: Followed) -> None:
        await one.answer(max_tokens=7, n=n)
        for index in range(n):
            choice = one.follow.choice(index)
            assert choice.rows == 6
            assert await finish(engine, choice)
            assert_same(await one.readout(index, 7), folded(engine_scorer(one), choice.ids))
        assert engine.aborted == []

    following(work)


@pytest.mark.parametrize("kind", RequestOutputKind)
@pytest.mark.parametrize("halts", [None, lambda score: False])
def test_with_our_scheduler_it_is_read_in_one_step_more(engine, following, kind, halts):
    engine.says(ids_of(engine, BAD), GOOD)
    engine.linger()

    async def work(one: Followed) -> None:
        await one.answer(max_tokens=7, n=2, output_kind=kind, logprobs=1)
        for index, text in enumerate((BAD, GOOD)):
            choice = one.follow.choice(index)
            assert (choice.ended_by, choice.ids) == ("length", ids_of(engine, text)[:7])
            assert (choice.rows, choice.visible) == (7, choice.ids)
            assert one.heard(kind)[index] == (choice.text, choice.ids, "length")
            assert_same(await one.readout(index, 7), folded(engine_scorer(one), choice.ids))
        assert len(engine.requests) == 1

    following(work, halts=halts)


@pytest.mark.parametrize("refused", ["linger", "kv_transfer_params"])
def test_not_where_that_may_harm(engine, following, refused):
    engine.says(ids_of(engine, BAD))
    engine.linger()

    async def work(one: Followed) -> None:
        await one.answer(max_tokens=7, extra_args={refused: {}} if refused != "linger" else None)
        assert (one.wish["linger"], one.follow.choice(0).rows) == (False, 6)

    following(work, **({"linger": False} if refused == "linger" else {}))


def test_not_even_then_where_the_context_is_full(engine, following):
    engine.says(ids_of(engine, GOOD))
    engine.linger()

    async def work(one: Followed) -> None:
        prompt = {"type": "token", "prompt_token_ids": [5] * (CONTEXT - 4)}
        await one.answer(prompt=prompt, max_tokens=4)
        assert one.follow.choice(0).rows == 3
        await one.answer(prompt={**prompt, "prompt_token_ids": [5] * (CONTEXT - 5)}, max_tokens=4)
        assert one.follow.choice(1).rows == 4

    following(work)


@pytest.mark.parametrize("salt", [None, "tenant"])
def test_it_is_read_with_the_salt_of_its_request(engine, following, salt):
    """So that it finds what the prefix cache has of the prompt."""
    engine.says(ids_of(engine, BAD))

    async def work(one: Followed) -> None:
        prompt = {"type": "token", "prompt_token_ids": [5, 6], **({"cache_salt": salt} if salt else {})}
        await one.answer(prompt=prompt, max_tokens=4)
        assert await finish(engine, one.follow.choice(0))
        assert [prompt.get("cache_salt") for prompt, *_ in engine.requests] == [salt, salt]

    following(work)


def test_not_where_the_context_is_full(engine, following):
    engine.says(ids_of(engine, GOOD))

    async def work(one: Followed) -> None:
        prompt = {"type": "token", "prompt_token_ids": [5] * (CONTEXT - 4)}
        await one.answer(prompt=prompt, max_tokens=4)
        choice = one.follow.choice(0)
        assert await finish(engine, choice) is False
        assert_same(await one.readout(0, 3), folded(engine_scorer(one), choice.ids[:3]))

    following(work)


def test_a_prompt_that_is_more_than_tokens_is_not_plain(engine, following):
    async def work(one: Followed) -> None:
        await one.answer()
        await one.answer(prompt={**PROMPT, "type": "multimodal"})
        assert [one.follow.choice(i).asked.plain for i in range(2)] == [True, False]

    following(work)
