"""What `groundwire score` wrote, against labels: AUC with its interval, who was flagged, and the priors beside it.

groundwire score benchmarks/own_answers/answers.jsonl -o scored.jsonl
python benchmarks/judge.py benchmarks/own_answers/answers.jsonl scored.jsonl -o benchmarks/results/own-answers.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np

from groundwire.errors import GroundwireError, InputError
from groundwire.training.data import LabelledExample, read_labelled
from groundwire.training.metrics import figures

FILE = click.Path(dir_okay=False, path_type=Path)


def judge(examples: list[LabelledExample], verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures over the rows that were checked; the others are counted by reason, never as clean."""
    if len(examples) != len(verdicts):
        raise InputError(f"{len(examples)} labelled rows, {len(verdicts)} verdicts", expected="one verdict per row")
    checked = [i for i, verdict in enumerate(verdicts) if verdict["status"] == "checked"]
    rows, found = [examples[i] for i in checked], [verdicts[i] for i in checked]
    labels, flagged = np.array([e.label for e in rows]), np.array([v["flagged"] for v in found])
    measured = figures(rows, np.array([v["score"] for v in found]), found[0]["threshold"])
    unlike = [(v.get("unlike_training") or {}).get("flag") for v in found]
    return {
        **measured,
        "flagged_of_unfaithful": float(flagged[labels == 1].mean()),
        "flagged_of_faithful": float(flagged[labels == 0].mean()),
        "unlike_training": float(np.mean([flag is True for flag in unlike])),
        "not_checked": dict(Counter(v["reason"] for v in verdicts if v["status"] != "checked")),
    }


@click.command()
@click.argument("labelled", type=FILE)
@click.argument("scored", type=FILE)
@click.option("-o", "--output", required=True, type=FILE, help="Results, JSON.")
def main(labelled: Path, scored: Path, output: Path) -> None:
    """Judge the verdicts in SCORED by the labels of LABELLED."""
    import record  # beside this script

    verdicts = [json.loads(line)["hallucination"] for line in scored.read_text(encoding="utf-8").splitlines()]
    found = judge(read_labelled(labelled), verdicts)
    row = {
        "answers": labelled.parent.name,
        "checked": found["rows"],
        "unfaithful": found["unfaithful"],
        "AUC": found["auc"],
        "95 % interval": found["auc_interval"],
        "flagged, of unfaithful": found["flagged_of_unfaithful"],
        "flagged, of faithful": found["flagged_of_faithful"],
        "length": found["priors"]["length"],
        "absent words": found["priors"]["absent_words"],
        "absent bigrams": found["priors"]["absent_bigrams"],
    }
    record.write(output, {"figures": found, "tables": {"judged": [row]}})
    click.echo(json.dumps(found, indent=1))


if __name__ == "__main__":
    try:
        main()
    except GroundwireError as error:
        sys.exit(f"judge: {error}")
