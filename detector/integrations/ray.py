"""Ray Data: a callable class for `map_batches` that adds the verdict on each row of a dataset.

from groundwire.integrations.ray import ScoreAnswers
ds = ray.data.read_parquet("answers.parquet").sort("prompt")
ds.map_batches(ScoreAnswers, batch_format="pyarrow", batch_size=512, concurrency=2).write_parquet("verdicts")

Rows of one prompt share its encoding where they stand in one batch: sort by the prompt (or a key of it) first. To run
`groundwire score` itself on a Ray cluster, with its checkpoints, see `groundwire score --runner ray`.
"""

from __future__ import annotations

from typing import Any

from groundwire.batch.frames import FrameScorer
from groundwire.batch.recipe import Load, Recipe, limit_threads
from groundwire.errors import MissingExtra

try:
    import ray  # noqa: F401  # not used here, but nothing else calls this
except ImportError as error:
    raise MissingExtra("ray", "ray") from error


class ScoreAnswers:
    """Adds status, reason, score, flagged, spans, terms and the verdict's other fields to each row of a batch.

    A batch (Arrow, pandas or NumPy) has the columns of a row of `groundwire score`: response, and prompt, messages, or
    question and context. It comes back as an Arrow table, in the same order; a row that cannot be read is not_checked.
    load: the detector, loaded once in each actor; a `groundwire.batch.recipe.Recipe` such as Recipe(device="cuda"), or
    a function. threads: of the processor, for an actor; None leaves that to Ray, which gives as many as `num_cpus`.
    options: as `groundwire.batch.frames.FrameScorer` takes them: threshold, tokens, columns, keep, prefix ...
    Pass all of these as `fn_constructor_kwargs`.
    """

    def __init__(self, load: Load | None = None, *, threads: int | None = None, **options: Any) -> None:
        limit_threads(threads)
        self.scorer = FrameScorer((load or Recipe())(), **options)

    def __call__(self, batch: Any) -> Any:
        """The batch with the verdict's columns."""
        return self.scorer.batch(batch)
