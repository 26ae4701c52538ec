"""The words of the page: how to read its figures, and why an answer was not checked."""

from __future__ import annotations

from groundwire.report.markup import Html, el

REASONS = {
    "no_passages": "there was nothing to be faithful to",
    "tool_call": "the reply calls a tool and claims nothing",
    "abstained": "“the passages do not say” is not a claim",
    "empty_response": "no visible token",
    "prompt_too_long": "prompt and response exceed the reader's context",
    "model_mismatch": "the detector belongs to another model",
    "capture_failed": "the forward pass gave no usable activations",
    "invalid_input": "the row could not be read",
    "disabled": "checking was switched off",
}
READING = {
    "Score": "The detector's estimate of the probability that an answer is not faithful to its passages, at the share "
    "of unfaithful answers it was calibrated for. It does not say whether the passages are true.",
    "Flagged": "The score is above the threshold. Another threshold flags another share; neither is the share of "
    "unfaithful answers, because some of these are missed and some faithful ones are flagged.",
    "Not checked": "No verdict, for the reason given. It is not a low score.",
    "Spans": "The characters the detector suspects most, found with a threshold of their own: an answer that is not "
    "flagged may have some. The nearest passage text is there for comparison; it settles nothing.",
    "Terms": "What the score is made of, exactly: intercept and all terms sum to its log-odds. A latent is a direction "
    "in the model's own activations, named by words it fires on and words it promotes; these names are rough. "
    "Grounding terms compare the texts; a residual term is a direction in the activations as a whole.",
    "Unlike training": "Where shown: the answer lies far from the data the detector was trained on, and its score is "
    "worth less.",
    "Limits": "The detector misses unfaithful answers and flags faithful ones. How often, only labels of this kind of "
    "data can tell. What is marked is worth a person's look; what is not marked is not thereby right.",
}


def reading() -> Html:
    """How to read the page, and what it cannot say."""
    return el("dl", *(el("div", el("dt", name), el("dd", words)) for name, words in READING.items()), class_="reading")
