"""How fast rows are scored, beside the reference procedure and beside a bare forward pass over the same tokens.

    python benchmarks/throughput.py DATA_FOLDER [-o benchmarks/results/throughput.json]
    python benchmarks/throughput.py DATA_FOLDER --dtypes bfloat16          # other dtypes beside float32
    python benchmarks/throughput.py DATA_FOLDER --device cuda --dtypes bfloat16 float16 -o OTHER.json   # ours alone

One process, the same threads, taken in turn, round after round; medians over the rounds, and their range:

- reference: `baselines.reference.Reference`, RAGLens as the paper describes it, one pass a row;
- ours: `score_file`, from a file of rows to a file of verdicts, as `groundwire score` runs it;
- bare forward: `baselines.reference.Bare`, the tokens of ours (each distinct prompt once, and every response) through
  the same layers and nothing else, in the fastest of a few shapes. That is the limit. "Bare" lets responses attend to
  nothing before them, which is less than any scoring needs; "with prompts" adds their attention to the prompt.

The reference's cost of a row does not depend on other rows or on their order, only on its tokens: it runs on a sample,
spread evenly over the rows by length, and its tokens a second are turned into rows of the mean length. Rows without
anything to check (abstentions, prompts beyond the context) are left out for all three. Peak memory: `footprint.py`.

Freed memory is kept by the allocator, for all three alike, as `MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_` do
in the Makefile: page faults are dear on small machines.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from baselines.reference import Bare, Distinct, Reference
from record import write

from groundwire.abstention import abstained
from groundwire.batch.score import score_file
from groundwire.detector import DEFAULT_ARTIFACT, Detector
from groundwire.engines.reader import load_reader
from groundwire.memory import keep_freed_memory
from groundwire.prompts import render, tokenize_response
from groundwire.sae import load_dictionary
from groundwire.training.data import LabelledExample, read_labelled
from groundwire.training.metrics import auc

SETS = ("ragtruth-qa", "summedits", "summedits, shuffled", "distinct prompts")
FLOAT32 = "float32"
FIRST_ROWS = 12  # the first rows of ragtruth-qa, on which the reference's speed was published
PUBLISHED = 0.74  # rows a second, two cores with AVX2
BARE_TOKENS = 16_384  # of a kind, in a bare pass; beyond them time is scaled


@dataclass(frozen=True)
class Row:
    """An example, the line it was read from, and the token ids of its prompt and its response."""

    example: LabelledExample
    line: str
    ids: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))


@dataclass(frozen=True)
class Data:
    """Rows of one measurement, in order. rounds: how often they are scored."""

    name: str
    rows: list[Row]
    rounds: int

    @property
    def distinct(self) -> Distinct:
        return Distinct.of([row.ids for row in self.rows])


# -- rows ---------------------------------------------------------------------------------------------------------


def read_rows(path: Path, tokenizer: Any, context: int) -> list[Row]:
    """The rows that a detector checks, in file order. Equal prompts are rendered once."""
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    prompts: dict[str, tuple[int, ...]] = {}
    found = []
    for example, line in zip(read_labelled(path), lines, strict=True):
        if example.prompt not in prompts:
            prompts[example.prompt] = tuple(render(tokenizer, example.messages))
        response = tuple(t.id for t in tokenize_response(tokenizer, example.response))
        row = Row(example, line, (prompts[example.prompt], response))
        if example.response.strip() and not abstained(example.response) and row.tokens <= context:
            found.append(row)
    return found


def whole_prompts(rows: Sequence[Row], least: int) -> list[Row]:
    """The first rows: whole prompts, until there are `least` rows."""
    found: list[Row] = []
    for _, run in groupby(rows, key=lambda row: row.ids[0]):
        if len(found) >= least:
            break
        found += run
    return found


def distinct_prompts(rows: Iterable[Row], count: int) -> list[Row]:
    """`count` rows spread evenly over the first row of every prompt and group."""
    prompts, groups, found = set(), set(), []
    for row in rows:
        if row.ids[0] not in prompts and row.example.group not in groups:
            found.append(row)
        prompts.add(row.ids[0])
        groups.add(row.example.group)
    return spread(found, count)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, evenly from the whole sequence: the middle of each of `count` parts."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def gather(name: str, read: Callable[[str], list[Row]], args: argparse.Namespace) -> Data:
    """The rows of one of `SETS`; `read` gives those of a file."""
    if name == "distinct prompts":
        every = [row for file in ("ragtruth-qa", "dolly", "refchecker") for row in read(file)]
        return Data(name, distinct_prompts(every, args.rows), args.rounds)
    rows = read(name.partition(",")[0])
    if "shuffled" not in name:
        return Data(name, whole_prompts(rows, args.rows), args.rounds)
    rows = whole_prompts(rows, args.shuffled_rows)
    return Data(name, random.Random(0).sample(rows, len(rows)), args.rounds)


# -- measuring ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ours:
    """A detector over one file of rows. device: where it runs, awaited at both ends of a measurement."""

    detector: Detector
    device: str = "cpu"

    def seconds(self, source: Path, target: Path, rows: int) -> float:
        """Wall time from file to file. Raises RuntimeError where a row was not checked: it would cost nothing."""
        self._wait()
        start = perf_counter()
        summary = score_file(self.detector, source, target, overwrite=True, progress=False)
        self._wait()
        seconds = perf_counter() - start
        if summary.checked != rows:
            raise RuntimeError(f"{summary.checked} of {rows} rows were checked: {dict(summary.not_checked)}")
        return seconds

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def reference_speed(reference: Reference, rows: Sequence[Row]) -> float:
    """Tokens of prompts and responses a second, from the texts on."""
    start = perf_counter()
    for row in rows:
        reference.logit(row.example)
    return sum(row.tokens for row in rows) / (perf_counter() - start)


def sample(rows: Sequence[Row], count: int) -> list[Row]:
    """Rows for the reference, spread evenly over all by length."""
    return spread(sorted(rows, key=lambda row: row.tokens), count)


def measure(
    data: Data, ours: Mapping[str, Ours], reference: Reference, bare: Bare, folder: Path, sampled: int
) -> dict[str, Any]:
    """All rounds over one data set: for each the reference, ours by dtype, and the bare passes, in turn."""
    distinct, few = data.distinct, sample(data.rows, sampled)
    per_row = statistics.mean(row.tokens for row in data.rows)
    work = bare.plan(distinct, BARE_TOKENS)
    source = write_lines(folder / "rows.jsonl", data.rows)
    targets = {dtype: folder / f"{dtype}.jsonl" for dtype in ours}
    for dtype, each in ours.items():  # warm-up, on few rows
        each.seconds(write_lines(folder / "few.jsonl", few), targets[dtype], len(few))
    rounds = []
    for _ in range(data.rounds):
        speed = reference_speed(reference, few)
        seconds = {dtype: each.seconds(source, targets[dtype], len(data.rows)) for dtype, each in ours.items()}
        passes = {name: bare.seconds(each) for name, each in work.items()}
        rounds.append(one_round(data, speed / per_row, seconds, passes))
        print({key: value for key, value in rounds[-1].items() if key != "bare_seconds"}, flush=True)
    return {
        "data": data.name,
        "rows": len(data.rows),
        "prompts": len(distinct.prompts),
        "distinct_tokens": distinct.tokens,
        "reference_tokens_per_row": per_row,
        "reference_rows": len(few),
        "bare_shapes": {name: vars(each.shape) for name, each in work.items()},
        "rounds": rounds,
        "dtypes": compare(data.rows, targets),
    }


def one_round(data: Data, reference: float, ours: Mapping[str, float], passes: Mapping[str, float]) -> dict[str, Any]:
    """Speeds and ratios. reference: rows a second. ours: seconds, by dtype. passes: seconds of bare passes, by kind."""
    least = passes["prompts"] + passes["responses"]
    full = passes["prompts"] + passes["responses after their prompt"]
    return {
        "reference": reference,
        "ours": {dtype: len(data.rows) / seconds for dtype, seconds in ours.items()},
        "over_reference": {dtype: len(data.rows) / seconds / reference for dtype, seconds in ours.items()},
        "of_bare": least / ours[FLOAT32],
        "of_bare_with_prompts": full / ours[FLOAT32],
        "bare": len(data.rows) / least,
        "bare_seconds": dict(passes),
    }


def compare(rows: Sequence[Row], targets: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """What other dtypes change in the verdicts, against float32 on the same rows."""
    verdicts = {dtype: _verdicts(path) for dtype, path in targets.items()}
    labels = np.array([row.example.label for row in rows])
    scores = {dtype: np.array([verdict["score"] for verdict in every]) for dtype, every in verdicts.items()}
    found = {}
    for dtype, every in verdicts.items():
        gaps = np.abs(scores[dtype] - scores[FLOAT32])
        flips = sum(a["flagged"] != b["flagged"] for a, b in zip(every, verdicts[FLOAT32], strict=True))
        found[dtype] = {
            "mean_difference": float(gaps.mean()),
            "max_difference": float(gaps.max()),
            "auc": auc(labels, scores[dtype]),
            "flips": flips,
        }
    return found


def _verdicts(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["hallucination"] for line in lines]


def write_lines(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(row.line + "\n" for row in rows), encoding="utf-8")
    return path


# -- results ------------------------------------------------------------------------------------------------------


def middle(values: Iterable[float]) -> tuple[float, list[float]]:
    """Median and range."""
    values = list(values)
    return statistics.median(values), [min(values), max(values)]


def shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """A data set's row in the README's table."""
    rounds = found["rounds"]
    ours, _ = middle(r["ours"][FLOAT32] for r in rounds)
    over, over_range = middle(r["over_reference"][FLOAT32] for r in rounds)
    of_bare, bare_range = middle(r["of_bare"] for r in rounds)
    return {
        "data": found["data"],
        "rows": found["rows"],
        "answers a prompt": found["rows"] / found["prompts"],
        "reference rows/s": middle(r["reference"] for r in rounds)[0],
        "ours rows/s": ours,
        "ours tokens/s": round(ours * found["distinct_tokens"] / found["rows"]),
        "ours / reference": over,
        "range": over_range,
        "ours / bare forward": of_bare,
        "range of it": bare_range,
        "with prompts": middle(r["of_bare_with_prompts"] for r in rounds)[0],
    }


def shown_dtypes(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A data set's rows in the table of dtypes; none where float32 is the only one."""
    rows = []
    for dtype, figures in found["dtypes"].items():
        ratio, ratio_range = middle(r["ours"][dtype] / r["ours"][FLOAT32] for r in found["rounds"])
        rows.append(
            {
                "data": found["data"],
                "dtype": dtype,
                "rows/s": middle(r["ours"][dtype] for r in found["rounds"])[0],
                "ours / reference": middle(r["over_reference"][dtype] for r in found["rounds"])[0],
                "/ float32": ratio,
                "range": ratio_range,
                "score difference, mean": figures["mean_difference"],
                "largest": figures["max_difference"],
                "AUC": figures["auc"],
                "verdicts that flip": f"{figures['flips']} of {found['rows']}",
            }
        )
    return rows if len(rows) > 1 else []


def on_device(data: Data, ours: Mapping[str, Ours], folder: Path) -> list[dict[str, Any]]:
    """Ours alone, a row for each dtype: for devices on which the reference is not run."""
    source, found = write_lines(folder / "rows.jsonl", data.rows), []
    for dtype, each in ours.items():
        target = folder / f"{dtype}.jsonl"
        each.seconds(source, target, len(data.rows))  # warm-up, at the sizes to come
        seconds, ends = middle(each.seconds(source, target, len(data.rows)) for _ in range(data.rounds))
        row = {"data": data.name, "rows": len(data.rows), "device": each.device, "dtype": dtype}
        row |= {"rows/s": len(data.rows) / seconds, "range": sorted(len(data.rows) / end for end in ends)}
        found.append(row | {"tokens/s": round(data.distinct.tokens / seconds)})
        print(json.dumps(found[-1]), flush=True)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of labelled JSONL: ragtruth-qa, summedits, dolly, refchecker")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "throughput.json")
    parser.add_argument("--artifact", type=Path, default=None, help="detector folder; the embedded default if left out")
    parser.add_argument("--dictionary", type=Path, help="of the reference; the artifact's own where left out")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--rows", type=int, default=96, help="of ours, whole prompts; all sets but the shuffled one")
    parser.add_argument("--reference-rows", type=int, default=8, help="of the reference, in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shuffled-rows", type=int, default=1200, help="whole prompts, their rows far apart")
    parser.add_argument("--dtypes", nargs="*", default=[], help="of ours, beside float32, as load_reader takes them")
    parser.add_argument("--device", default="cpu", help="other than cpu: ours alone, nothing to compare with")
    parser.add_argument("--threads", type=int, help="torch's; as it chooses where left out")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    allocator = keep_freed_memory()
    ours = {
        dtype: Ours(Detector.from_pretrained(args.artifact, dtype=dtype, device=args.device), args.device)
        for dtype in dict.fromkeys([FLOAT32, *args.dtypes])
    }
    detector = ours[FLOAT32].detector
    context, artifact = detector.engine.context, detector.artifact

    def read(file: str) -> list[Row]:
        return read_rows(args.data / f"{file}.jsonl", detector.tokenizer, context)

    about = {"cpu": torch.backends.cpu.get_cpu_capability(), "freed_memory_kept": allocator}
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        if args.device != "cpu":
            if args.device.startswith("cuda"):
                about["gpu"] = torch.cuda.get_device_name(args.device)
            rows = [row for name in args.sets for row in on_device(gather(name, read, args), ours, folder)]
            write(args.output, {**about, "tables": {"throughput-device": rows}})
            return
        # A model of its own: an engine is free to lay its weights out in another way.
        reader = load_reader(artifact.model)
        dictionary = load_dictionary(args.dictionary or (args.artifact or DEFAULT_ARTIFACT) / "dictionary")
        reference = Reference.unfitted(reader, artifact.hookpoint, dictionary)
        about["reference"] = {"latents": dictionary.n_latents, "published_rows_per_second": PUBLISHED}
        if "ragtruth-qa" in args.sets:
            first = read("ragtruth-qa")[:FIRST_ROWS]
            reference_speed(reference, first[:1])  # warm-up
            speed = reference_speed(reference, first) * len(first) / sum(row.tokens for row in first)
            about["reference"] |= {"first_rows": len(first), "rows_per_second": speed}
            print(about["reference"], flush=True)
        found: list[dict[str, Any]] = []
        for name in args.sets:
            data, bare = gather(name, read, args), Bare(reader, artifact.hookpoint)
            figures = measure(data, ours, reference, bare, folder, args.reference_rows)
            found.append(figures)
            print(shown(figures), flush=True)
            tables = {"throughput": [shown(each) for each in found]}
            if dtypes := [row for each in found for row in shown_dtypes(each)]:
                tables["throughput-dtypes"] = dtypes
            write(args.output, {**about, "throughput": found, "tables": tables})


if __name__ == "__main__":
    main()
