"""What verdicts cost a vLLM server: stock `vllm serve` and `groundwire serve --engine vllm`, side by side.

    python benchmarks/serving_overhead.py [-o benchmarks/results/serving-overhead.json]
    python benchmarks/serving_overhead.py --model MODEL --detector FOLDER --rates 1 4 --vllm-flag="--dtype bfloat16"
    python benchmarks/serving_overhead.py --dummy-8b       # a random model of Llama 3.1 8B's shape, for its speed
    python benchmarks/serving_overhead.py --step           # inside the worker, by its own timer

Both servers have the same flags, get the same requests (prompts, lengths) and are asked in turn,
round after round; which goes first alternates, so that whatever else the machine does hits both. A ratio is the median
over the rounds, its interval a bootstrap over them. Every answer of ours must be checked, by the model's own detector,
and both servers must read and write the same numbers of tokens: else the run fails.

- tokens/s: output tokens over the time from the first request to the last answer's end, verdict included
- first token: from the request to its first text
- between tokens: from text to text; vLLM puts several tokens into one where its server falls behind
- end: from the last text but one to the end: the time of the last token, and in ours of the verdict

An answer that its length ends costs most: its last token is read in one step more. With `--ends itself` answers of the
same lengths end with EOS, made certain at its place. GPU memory is what a server took until it had answered once, with
caches of the same size (`--kv-cache-memory-bytes`); resident memory is that of all processes of a server, at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from record import write
from vllm_cost import dummy, figures, step
from vllm_cost.asks import ITSELF, LENGTH, Asks, Load, loads
from vllm_cost.figures import Pair, Row
from vllm_cost.servers import Server, commands, flags, gpu_bytes, running
from vllm_cost.streams import OFF, ON, Heard, check_pair, run

from groundwire.engines.reader import Identity, identify

RESULTS = Path(__file__).parent / "results"


def modes(*, eager: bool, graphs: bool, gpu: bool) -> list[str]:
    """The ways of running vLLM: those asked for, else both on a GPU, and without graphs on a CPU."""
    asked = [name for name, wanted in (("eager", eager), ("graphs", graphs)) if wanted]
    return asked or (["eager", "graphs"] if gpu else ["eager"])


def order(number: int) -> tuple[str, str]:
    """Which server goes first in a round."""
    return (OFF, ON) if number % 2 == 0 else (ON, OFF)


async def pair(servers: dict[str, Server], load: Load, asks: Asks, number: int) -> Pair:
    """One round of a load."""
    same, found = asks.next(load), dict[str, list[Heard]]()
    for side in order(number):
        server = servers[side]
        found[side] = await run(server.url, server.model, load, same, checked=side == ON)
    check_pair(found[ON], found[OFF])
    return found[ON], found[OFF]


async def measure(servers: dict[str, Server], every: Sequence[Load], asks: Asks, rounds: int) -> list[Row]:
    """All loads, each in every round."""
    pairs: dict[Load, list[Pair]] = {load: [] for load in every}
    for number in range(rounds):
        for load in every:
            pairs[load].append(await pair(servers, load, asks, number))
        print(f"{number + 1} of {rounds} rounds", flush=True)
    return [{**figures.about(load, found), **figures.measured(found)} for load, found in pairs.items()]


def serve_and_measure(starts: dict[str, list[str]], every: Sequence[Load], asks: Asks, rounds: int) -> Row:
    """One way of running vLLM: both servers started, warmed up one after the other, and measured."""
    servers, gpu = dict[str, Server](), dict[str, int | None]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for side, command in starts.items():
            before = gpu_bytes()
            servers[side] = server = stack.enter_context(running(side, command, folder))
            for load in every:
                warm = asks.next(load)
                asyncio.run(run(server.url, server.model, load, warm, checked=side == ON))
            gpu[side] = None if before is None else (gpu_bytes() or 0) - before
        found = asyncio.run(measure(servers, every, asks, rounds))
        memory = {side: {"gpu": gpu[side], "resident": server.resident} for side, server in servers.items()}
        return {"vllm": servers[OFF].version, "loads": found, "memory_bytes": memory}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="results file; named after what is measured where left out")
    parser.add_argument("--model", help="folder or Hugging Face id; the embedded default where left out")
    parser.add_argument("--detector", type=Path, help="the model's; the one that ships where left out")
    parser.add_argument("--vllm-flag", action="append", default=[], metavar="FLAG", help="for both servers; repeatable")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[8, 32], help="streams at once")
    parser.add_argument("--turns", type=int, default=2, help="requests of each stream in a round, one after the other")
    parser.add_argument("--rates", type=float, nargs="*", default=[], help="requests a second, coming by themselves")
    parser.add_argument("--rate-requests", type=int, default=64, help="requests of each rate in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=256, help="about so many")
    parser.add_argument("--output-tokens", type=int, default=128, help="answers have half to one and a half of it")
    parser.add_argument("--ends", nargs="+", choices=[LENGTH, ITSELF], default=[LENGTH], help="what ends the answers")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs; a CPU's only way where left out")
    parser.add_argument("--graphs", action="store_true", help="compiled, with CUDA graphs; on a GPU also the other")
    parser.add_argument("--dummy-8b", action="store_true", help="random weights in Llama 3.1 8B's shape, as the model")
    parser.add_argument("--dummy-layers", type=int, default=dummy.LAYERS, help="fewer of them, to try it")
    parser.add_argument("--step", action="store_true", help="time the worker's own steps instead of servers")
    args = parser.parse_args()
    if args.dummy_8b and (args.model or args.detector):
        parser.error("--dummy-8b brings a model and a detector: leave out --model and --detector")
    return args


def device() -> str:
    """What vLLM runs on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def measured(args: argparse.Namespace, name: str, identity: Identity, detector: Path | None) -> Row:
    """One way of running vLLM, measured as the arguments say."""
    eager, more = name == "eager", dummy.FLAGS if args.dummy_8b else []
    sizes = {"prompt": args.prompt_tokens, "answer": args.output_tokens}
    given = flags([*args.vllm_flag, *more], gpu=torch.cuda.is_available(), eager=eager)
    if args.step:
        found = step.measure(identity.source, detector, given, args.batch_sizes, args.rounds, **sizes)
    else:
        every = loads(args.batch_sizes, args.rates, args.ends, turns=args.turns, requests=args.rate_requests)
        starts = commands(identity.source, given, str(detector) if detector else None)
        found = serve_and_measure(starts, every, Asks(identity.tokenizer, **sizes), args.rounds)
    return {"flags": given, **found}


def results_of(args: argparse.Namespace) -> Path:
    """The results file."""
    parts = ["serving-overhead", *(["8b"] if args.dummy_8b else []), *(["step"] if args.step else [])]
    return args.output or RESULTS / f"{'-'.join(parts)}.json"


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers have sessions of their own: they are ended too
    args = arguments()
    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        model, detector = args.model, args.detector
        if args.dummy_8b:
            given = flags([*args.vllm_flag, *dummy.FLAGS], gpu=gpu, eager=True)
            made = dummy.make(Path(folder), given, args.dummy_layers)
            model, detector = made.model, made.detector
        identity = identify(model)
        found: dict[str, Any] = {}
        for name in modes(eager=args.eager, graphs=args.graphs, gpu=gpu):
            found[name] = measured(args, name, identity, detector)
    about = {"model": identity.id, "device": device(), "rounds": args.rounds}
    shown = (step if args.step else figures).tables(identity.id, device(), found)
    for title, rows in shown.items():
        print(title, *rows, sep="\n")
    write(results_of(args), {**about, "modes": found, "tables": shown})


if __name__ == "__main__":
    main()
