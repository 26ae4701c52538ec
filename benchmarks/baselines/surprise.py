"""How little the reader expected an answer: the negative log-probabilities of its tokens, averaged or summed.

Not free: it takes the whole model and its output layer, where a detector stops at its layer. WORK/logprob-NAME.npz
holds `mean` and `sum`, one number per answer in the data set's order, in nats. They are computed so: `prompts.render`
the messages, append the tokens of `prompts.tokenize_response`, run the model (bfloat16), and take log-softmax of the
logits before each response token at that token. A set without the file is left out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np


def scores(work: Path, name: str) -> dict[str, np.ndarray]:
    """Mean and summed negative log-probability of the set's answers, where they were computed."""
    path = work / f"logprob-{name}.npz"
    if not path.exists():
        return {}
    with np.load(path) as found:
        return {"mean surprise": found["mean"], "summed surprise": found["sum"]}
