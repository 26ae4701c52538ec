"""One call to the worker at a time, with all that is wanted of it by then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import pytest

from groundwire import __version__
from groundwire.engines.vllm.wire import Take
from groundwire.errors import CaptureError
from groundwire.server.vllm import link as link_module
from groundwire.server.vllm.link import Link
from tests.server.vllm.conftest import HOOKPOINT


class Client:
    """Answers calls with the keys that were asked for, once it is let go. Several processes, of which one follows."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[str]]] = []
        self.free = asyncio.Event()
        self.error: Exception | None = None

    async def collective_rpc(self, method: str, args: Any = ()) -> list[Any]:
        assert method == "groundwire_take"
        takes, drops = args
        self.calls.append(([take["key"] for take in takes], list(drops)))
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return [None, [None if take["key"] == "unknown" else take["key"].encode() for take in takes], None]


def linked(work: Callable[[Link, Client], Awaitable[None]]) -> None:
    async def main() -> None:
        client = Client()
        await work(Link(client), client)

    asyncio.run(asyncio.wait_for(main(), 10))


def takes(*keys: str) -> list[Take]:
    return [Take(key, 0, 1) for key in keys]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_is_asked_for_while_a_call_is_under_way_goes_with_the_next():
    async def work(link: Link, client: Client) -> None:
        first = asyncio.ensure_future(link.take(takes("a")))
        await settled()
        others = [asyncio.ensure_future(link.take(takes(*keys))) for keys in (("b", "c"), ("unknown",))]
        link.drop(["x"])
        link.drop(["y", "z"])
        await settled()
        assert client.calls == [(["a"], [])]
        client.free.set()
        assert await asyncio.gather(first, *others) == [[b"a"], [b"b", b"c"], [None]]
        assert client.calls == [(["a"], []), (["b", "c", "unknown"], ["x", "y", "z"])]

    linked(work)


def test_what_is_asked_for_at_once_goes_in_one_call():
    async def work(link: Link, client: Client) -> None:
        client.free.set()
        await asyncio.gather(link.take(takes("a")), link.take(takes("b")))
        assert await link.take([]) == []
        link.drop([])
        await settled()
        assert client.calls == [(["a", "b"], [])]

    linked(work)


def test_an_error_reaches_each_that_waits_and_the_next_call_is_made():
    async def work(link: Link, client: Client) -> None:
        client.free.set()
        client.error = RuntimeError("the engine is dead")
        found = await asyncio.gather(link.take(takes("a")), link.take(takes("b")), return_exceptions=True)
        assert [str(error) for error in found] == ["the engine is dead"] * 2
        client.error = None
        assert await link.take(takes("c")) == [b"c"]

    linked(work)


def test_forgetting_never_raises(caplog):
    async def work(link: Link, client: Client) -> None:
        client.free.set()
        client.error = RuntimeError("the engine is dead")
        link.drop(["a"])
        await settled()
        assert client.calls == [([], ["a"])]

    with caplog.at_level(logging.WARNING):
        linked(work)
    assert "the engine is dead" in caplog.text


def test_one_that_is_given_up_does_not_keep_the_others_waiting():
    async def work(link: Link, client: Client) -> None:
        given_up, other = (asyncio.ensure_future(link.take(takes(key))) for key in "ab")
        await settled()
        given_up.cancel()
        await settled()
        client.free.set()
        assert await other == [b"b"]

    linked(work)


def test_without_a_process_that_follows_nothing_is_there():
    async def work(link: Link, client: Client) -> None:
        async def nothing(method: str, args: Any = ()) -> list[Any]:
            return [None, None]

        client.collective_rpc = nothing  # type: ignore[method-assign]
        assert await link.take(takes("a")) == [None]
        assert await link.stats() == {}
        with pytest.raises(CaptureError, match="no worker"):
            await link.about()

    linked(work)


def test_it_speaks_the_worker_s_own_language(engine, artifact):
    async def main() -> None:
        link = Link(engine)
        about = await link.about()
        assert (about.version, about.hookpoint, about.tap, about.follows) == (__version__, HOOKPOINT, "aux", True)
        assert asdict(about)["running"]
        assert (await link.about()).block > about.block  # each front process has a block of its own
        assert await link.take(takes("nobody's")) == [None]
        assert engine.calls == ["groundwire_begin", "groundwire_begin", "groundwire_take"]

    asyncio.run(main())


def test_an_answer_of_another_length_reaches_everybody_who_waits():
    async def work(link: Link, client: Client) -> None:
        async def short(method: str, args: Any = ()) -> list[Any]:
            return [[b"a"]]

        client.collective_rpc = short  # type: ignore[method-assign]
        waiting = [asyncio.ensure_future(link.take(takes(*keys))) for keys in (("a", "b"), ("c",))]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [ValueError, ValueError]

    linked(work)


def test_where_nothing_runs_any_more_there_is_nothing_to_forget():
    Link(Client()).drop(["a"])


def test_an_engine_that_has_ended_answers_nobody(monkeypatch):
    monkeypatch.setattr(link_module, "ALIVE", 0.05)

    async def work(link: Link, client: Client) -> None:
        waiting = [asyncio.ensure_future(link.take(takes(*keys))) for keys in (("a",), ("b",))]
        await settled()
        client.errored = True  # type: ignore[attr-defined]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [CaptureError, CaptureError]

    linked(work)
