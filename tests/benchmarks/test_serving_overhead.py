"""What verdicts cost vLLM: planning, what is asked, how a stream is timed, the arithmetic. No vLLM is needed."""

from __future__ import annotations

import asyncio
import importlib
import json
import statistics
import subprocess
import sys
import time

import pytest

CHECKED = {"status": "checked", "detector": {"same_model": True}}


@pytest.fixture
def overhead(script):
    return script("serving_overhead")


@pytest.fixture
def part(overhead):
    return lambda name: importlib.import_module(f"vllm_cost.{name}")


@pytest.fixture
def heard(part):
    def make(*texts, number=1, sent=0.0, finished=None, prompt_tokens=9, tokens=None):
        texts = texts or (1.0, 2.0, 3.0)
        return part("streams").Heard(
            number, sent, tuple(texts), finished or texts[-1] + 1, prompt_tokens, tokens or len(texts) + 1
        )

    return make


@pytest.fixture
def asks(part, tiny_llama_folder):
    from transformers import AutoTokenizer

    return part("asks").Asks(AutoTokenizer.from_pretrained(tiny_llama_folder), prompt=1200, answer=20)


# -- planning ---------------------------------------------------------------------------------------------------------


def test_both_ways_of_running_are_measured_on_a_gpu_and_one_on_a_cpu(overhead):
    assert overhead.modes(eager=False, graphs=False, gpu=True) == ["eager", "graphs"]
    assert overhead.modes(eager=False, graphs=False, gpu=False) == ["eager"]
    assert overhead.modes(eager=False, graphs=True, gpu=False) == ["graphs"]
    assert overhead.modes(eager=True, graphs=True, gpu=False) == ["eager", "graphs"]


def test_which_server_goes_first_alternates(overhead):
    assert [overhead.order(number)[0] for number in range(4)] == ["off", "on", "off", "on"]
    assert all(sorted(overhead.order(number)) == ["off", "on"] for number in range(2))


def test_both_servers_have_the_same_flags(part):
    servers = part("servers")
    given = servers.flags(["--dtype float32", "--max_num_seqs=32"], gpu=False, eager=True)
    commands = servers.commands("MODEL", given, "FOLDER")
    on, off = commands["on"], commands["off"]
    assert off[-len(given) :] == on[-len(given) :] == given
    assert on[on.index("--detector") + 1] == "FOLDER"
    assert on.index("MODEL") < on.index("--detector")
    assert "groundwire" not in " ".join(off[1:])


def test_flags_leave_room_for_two_servers_unless_they_are_given(part):
    flags = part("servers").flags
    room = ["--max-model-len", "4096", "--kv-cache-memory-bytes"]
    assert flags([], gpu=False, eager=False) == [*room, str(1 << 30), "--dtype", "float32"]
    more = ["--gpu-memory-utilization", "0.45", "--enforce-eager"]
    assert flags([], gpu=True, eager=True) == [*room, str(4 << 30), *more]
    assert flags(["--dtype=bfloat16"], gpu=False, eager=False)[0] == "--dtype=bfloat16"
    assert "--dtype" not in flags(["--dtype=bfloat16"], gpu=False, eager=False)
    own = ["--max-model-len=512", "--gpu-memory-utilization 0.3"]
    assert flags(own, gpu=True, eager=False) == ["--max-model-len=512", "--gpu-memory-utilization", "0.3"]
    assert flags(["--enforce-eager"], gpu=True, eager=True).count("--enforce-eager") == 1


def test_the_stock_server_gets_nothing_of_ours(part):
    given = {"PATH": "p", "GROUNDWIRE_POLICY": "block", "VLLM_PLUGINS": "lora,groundwire"}
    assert part("servers").environment("off", given) == {"PATH": "p", "VLLM_PLUGINS": "lora"}
    assert part("servers").environment("on", given) == given


def test_loads_are_streams_and_rates_by_what_ends_the_answers(part):
    loads = part("asks").loads([8, 32], [0.5], ["length", "itself"], turns=2, requests=10)
    assert [(load.shown, load.requests, load.ends) for load in loads] == [
        ("8 streams", 16, "length"),
        ("8 streams", 16, "itself"),
        ("32 streams", 64, "length"),
        ("32 streams", 64, "itself"),
        ("0.5 requests/s", 10, "length"),
        ("0.5 requests/s", 10, "itself"),
    ]


def test_the_results_file_is_named_after_what_is_measured(overhead, monkeypatch):
    def named(*argv):
        monkeypatch.setattr("sys.argv", ["serving_overhead.py", *argv])
        return overhead.results_of(overhead.arguments()).name

    assert named() == "serving-overhead.json"
    assert named("--step") == "serving-overhead-step.json"
    assert named("--dummy-8b", "--step") == "serving-overhead-8b-step.json"
    assert named("-o", "OTHER.json") == "OTHER.json"
    with pytest.raises(SystemExit):
        named("--dummy-8b", "--model", "MODEL")


def test_a_server_that_does_not_start_says_why(part, tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no room for it')"]
    with pytest.raises(RuntimeError, match="did not start") as caught, part("servers").running("on", command, tmp_path):
        pass
    assert "no room for it" in caught.value.__notes__[0]


def test_a_server_is_ended_with_all_of_its_processes_and_they_are_its_memory(part):
    servers, big = part("servers"), "x = bytearray(50 << 20); import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {big!r}])"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    server, deadline = servers.Server("", "", process), time.monotonic() + 30
    while server.resident < 50 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    servers._stop(process)
    while server.resident:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_no_prompt_comes_twice_and_answers_differ_in_length(part, asks):
    load = part("asks").Load(12, streams=4)
    first, second = asks.next(load), asks.next(load)
    assert [one.number for one in (*first, *second)] == list(range(1, 25))
    assert len({one.content for one in (*first, *second)}) == 24
    lengths = [one.tokens for one in (*first, *second)]
    assert 10 <= min(lengths) < max(lengths) <= 30


def test_prompts_are_about_as_long_as_they_should_be(part, asks):
    from groundwire.prompts import render

    lengths = [
        len(render(asks._tokenizer, [{"role": "user", "content": one.content}]))
        for one in asks.next(part("asks").Load(8, streams=8))
    ]
    assert 0.8 * 1200 < statistics.median(lengths) < 1.1 * 1200


def test_both_servers_are_asked_the_same_but_for_the_verdict(part, asks):
    (one,) = asks.next(part("asks").Load(1, streams=1))
    on, off = one.body("m", checked=True), one.body("m", checked=False)
    wanted = on.pop("hallucination")
    assert on == off
    assert all(passage in one.content for passage in wanted["passages"])
    assert (off["max_tokens"], off["ignore_eos"], off["temperature"]) == (one.tokens, True, 0)


def test_an_answer_that_is_to_end_by_itself_ends_at_its_place(part, asks):
    (one,) = asks.next(part("asks").Load(1, streams=1, ends="itself"))
    body, eos = one.body("m", checked=False), asks._tokenizer.eos_token_id
    assert body["min_tokens"] == one.tokens - 1  # the one after these is EOS, and counts
    assert body["max_tokens"] > one.tokens
    assert body["logit_bias"] == {str(eos): 100}
    assert "ignore_eos" not in body


def test_requests_come_as_a_poisson_process(part, asks):
    times = part("asks").arrivals(4.0, 4001, seed=1)
    assert times[0] == 0
    assert times == sorted(times)
    assert times == part("asks").arrivals(4.0, 4001, seed=1)
    assert times[-1] / 4000 == pytest.approx(1 / 4, rel=0.1)
    assert asks.next(part("asks").Load(3, rate=4.0))[0].at == 0


# -- streams ----------------------------------------------------------------------------------------------------------


def line(**chunk):
    return "data: " + json.dumps({"choices": [], **chunk})


def said(text, **more):
    return line(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None, **more}])


@pytest.mark.parametrize("apart", [False, True])
def test_the_times_of_a_stream(part, asks, apart):
    """The last text comes with the end in one server, and before it in the other."""
    listener, one = part("streams").Listener(10.0), part("asks").Ask(5, "c", (), 4)
    listener.hear(said(""), 10.5)  # the role
    for at, text in ((11.0, "It"), (11.5, " was"), (12.5, " built")):
        listener.hear(said(text), at)
        listener.hear("", at)
    if apart:
        listener.hear(said("."), 13.0)
    listener.hear(said("" if apart else ".", finish_reason="length", hallucination=CHECKED), 14.0)
    listener.hear(line(usage={"prompt_tokens": 7, "completion_tokens": 4}), 14.0)
    listener.hear("data: [DONE]", 14.0)
    found = listener.heard(one, checked=True)
    assert (found.first, found.gaps, found.end) == (1.0, [0.5, 1.0], 1.5)
    assert (found.number, found.prompt_tokens, found.tokens) == (5, 7, 4)


@pytest.mark.parametrize(
    ("verdict", "checked", "why"),
    [
        ({"status": "not_checked", "reason": "capture_failed"}, True, "capture_failed"),
        (None, True, "was not checked"),
        ({"status": "checked", "detector": {"same_model": False}}, True, "another model judges"),
        (CHECKED, False, "not stock"),
    ],
)
def test_a_verdict_that_does_not_belong_there_fails_the_run(part, verdict, checked, why):
    listener = part("streams").Listener(0.0)
    for at in (1.0, 2.0):
        listener.hear(said("x"), at)
    more = {} if verdict is None else {"hallucination": verdict}
    listener.hear(said("x", finish_reason="length", **more), 3.0)
    listener.hear(line(usage={"prompt_tokens": 7, "completion_tokens": 3}), 3.0)
    with pytest.raises(RuntimeError, match=why):
        listener.heard(part("asks").Ask(1, "c", (), 3), checked=checked)


def test_an_answer_of_another_length_or_an_error_fails_the_run(part):
    listener = part("streams").Listener(0.0)
    for at in (1.0, 2.0):
        listener.hear(said("x"), at)
    listener.hear(said("x", finish_reason="stop"), 3.0)
    listener.hear(line(usage={"prompt_tokens": 7, "completion_tokens": 3}), 3.0)
    with pytest.raises(RuntimeError, match="expected 9 tokens"):
        listener.heard(part("asks").Ask(1, "c", (), 9), checked=False)
    with pytest.raises(RuntimeError, match="broke off"):
        listener.hear('data: {"error": {"message": "out of memory"}}', 4.0)


def test_servers_that_did_not_do_the_same_work_fail_the_run(part, heard):
    check = part("streams").check_pair
    check([heard(number=1), heard(number=2)], [heard(number=1), heard(number=2)])
    with pytest.raises(RuntimeError, match="without"):
        check([heard(prompt_tokens=9)], [heard(prompt_tokens=8)])


class Endpoint:
    """Stands in for both servers: how many requests it had at once at most, and what was asked."""

    def __init__(self):
        self.bodies, self.now, self.most = [], 0, 0

    async def __call__(self, request):
        import httpx

        body = json.loads(await request.aread())
        self.bodies.append(body)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        more = {"hallucination": CHECKED} if "hallucination" in body else {}
        usage = {"prompt_tokens": 7, "completion_tokens": body["max_tokens"]}
        lines = [said("a"), said("b"), said("c", finish_reason="length", **more), line(usage=usage), "data: [DONE]"]
        return httpx.Response(200, text="\n\n".join(lines))


def test_a_round_asks_both_servers_the_same(overhead, part, asks, monkeypatch):
    import httpx

    endpoint, streams = Endpoint(), part("streams")
    client = httpx.AsyncClient
    monkeypatch.setattr(
        streams.httpx, "AsyncClient", lambda **options: client(transport=httpx.MockTransport(endpoint), **options)
    )
    servers = {side: part("servers").Server("http://host", side, None) for side in ("on", "off")}
    load = part("asks").Load(6, streams=3)
    on, off = asyncio.run(overhead.pair(servers, load, asks, 0))
    assert [one.number for one in on] == [one.number for one in off] == [1, 2, 3, 4, 5, 6]
    assert [body["model"] for body in endpoint.bodies] == ["off"] * 6 + ["on"] * 6
    assert endpoint.most == 3
    for asked in ("off", "on"):
        said = [body["messages"][0]["content"] for body in endpoint.bodies if body["model"] == asked]
        assert len(set(said)) == len(said) == 6
    (found,) = asyncio.run(overhead.measure(servers, [load], asks, 2))
    assert (found["requests"], len(found["tokens_per_second"]["ratios"])) == (12, 2)
    open_ = part("asks").Load(6, rate=1000.0)
    endpoint.most = 0
    assert len(asyncio.run(streams.run("http://host", "on", open_, asks.next(open_), checked=True))) == 6
    assert endpoint.most > 3


# -- figures ----------------------------------------------------------------------------------------------------------


def test_measures_of_a_run(part, heard):
    figures = part("figures")
    run = [heard(1.0, 2.0, 4.0, finished=4.5), heard(3.0, 4.0, 5.0, sent=1.0, finished=8.0)]
    assert figures.throughput(run) == 8 / 8
    assert figures.first_ms(0.5)(run) == 1500
    assert figures.gap_ms(0.5)(run) == 1000
    assert figures.gap_ms(1.0)(run) == 2000
    assert figures.end_ms(run) == (500 + 3000) / 2


def test_quantiles_lie_between_two_values(part):
    quantile = part("figures").quantile
    assert [quantile([3, 1, 2], share) for share in (0, 0.25, 0.5, 1)] == [1, 1.5, 2, 3]
    assert quantile([7], 0.99) == 7


def test_ratios_are_of_pairs_and_a_slow_round_hits_both(part):
    found = part("figures").compared([9.0, 4.5, 95.0], [10.0, 5.0, 100.0])
    assert found["ratio"] == pytest.approx(0.9)
    assert found["ratios"] == pytest.approx([0.9, 0.9, 0.95])
    assert (found["on"], found["off"], found["added"]) == (9.0, 10.0, -1.0)
    assert found["interval"] == pytest.approx([0.9, 0.95])


def test_the_interval_narrows_with_the_rounds_and_covers(part):
    import random

    interval, chance = part("figures").interval, random.Random(3)
    few, many = ([chance.gauss(0.97, 0.02) for _ in range(count)] for count in (5, 80))
    assert interval(few) == [min(few), max(few)]
    low, high = interval(many)
    assert low < statistics.median(many) < high
    assert high - low < 0.5 * (max(few) - min(few))
    assert interval(many) == [low, high]
    covered = 0
    for _ in range(40):
        low, high = interval([chance.gauss(0.97, 0.02) for _ in range(9)])
        covered += low <= 0.97 <= high
    assert covered >= 34


def test_tables_have_the_same_columns_and_are_rendered(part, script, heard):
    figures, load = part("figures"), part("asks").Load
    pairs = [([heard(finished=5.0)], [heard(finished=4.0)])] * 2
    found = [
        {**figures.about(each, pairs), **figures.measured(pairs)}
        for each in (load(1, streams=8), load(1, rate=2.0, ends="itself"))
    ]
    modes = {
        "eager": {"loads": found, "memory_bytes": {s: {"gpu": None, "resident": 5_000_000} for s in ("on", "off")}}
    }
    shown = figures.tables("m", "d", modes)
    assert shown["serving-overhead"][0]["ratio"] == pytest.approx(4 / 5)
    assert [row["answers end by"] for row in shown["serving-overhead"]] == ["`max_tokens`", "themselves"]
    assert shown["serving-overhead-latency"][0]["end later by"] == pytest.approx(1000)
    for rows in shown.values():
        assert "| eager |" in script("tables").markdown(rows)


def test_a_step_is_timed_by_the_workers_own_clock(part):
    step = part("step")
    stats = {"steps": 10, "pass": 0.9, "capture": 0.1, "takes": 2, "taking": 0.004, "failed": 0, "slots": 0}
    on, off = step.Ran(90.0, stats, (0.003, 0.005)), step.Ran(100.0, {**stats, "capture": 0.0})
    assert (on.share, on.step_ms("pass"), on.step_ms("capture")) == pytest.approx((0.1, 90, 10))
    found = step._figures([on, on], [off, off])
    assert (found["take_ms"], found["take_call_ms_p50"], found["steps"]) == pytest.approx((2, 4, 20))
    assert found["tokens_per_second"]["ratio"] == pytest.approx(0.9)
    (row,) = step.tables("m", "d", {"graphs": {"steps": {"8": found}}})["serving-overhead-step"]
    assert (row["batch"], row["capture / step"]) == (8, pytest.approx(0.1))


# -- the random model -------------------------------------------------------------------------------------------------


def test_the_random_model_has_llama_8bs_shape(part):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dummy = part("dummy")
    given = dummy.config(49_152)
    config = AutoConfig.for_model(**given)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert type(model).__name__ in given["architectures"]
    weights = sum(weight.numel() for weight in model.parameters())
    assert weights == pytest.approx(7.4e9, rel=0.005)
    assert weights + 2 * (128_256 - 49_152) * dummy.WIDTH == 8_030_261_248  # Llama 3.1 8B itself
    assert [dummy.hookpoint(layers) for layers in (32, 1)] == ["model.layers.19", "model.layers.0"]


def test_its_detector_costs_what_the_one_that_ships_costs(part, tmp_path):
    from groundwire.artifact import Artifact
    from groundwire.detector import DEFAULT_ARTIFACT
    from groundwire.engines.reader import Identity

    dummy, shipped = part("dummy"), Artifact.from_pretrained(DEFAULT_ARTIFACT)
    identity = Identity("folder", "name", None, {"tokenizer": "t", "chat_template": "c", "weights": "w"})
    dummy.random_detector(identity, 32, [1, 2, 3]).save_pretrained(tmp_path)
    made = Artifact.from_pretrained(tmp_path)
    assert made.scorer.encoder.weight.shape == (shipped.scorer.terms, dummy.WIDTH)
    assert (made.scorer.pooling, made.scorer.shapes.terms) == (shipped.scorer.pooling, shipped.scorer.terms)
    assert [term.kind for term in made.terms].count("grounding") == len(shipped.grounding.names)
    assert (made.model, made.fingerprint, made.hookpoint) == ("name", identity.fingerprint, "model.layers.19")
    assert made.probe.ids.tolist() == [1, 2, 3]
    assert {term.name for term in made.terms} & {term.name for term in shipped.terms} == {
        term.name for term in shipped.terms if term.kind == "grounding"
    }
