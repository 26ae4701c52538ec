"""Passages from whatever a retriever returns. Known by their attributes: no framework is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from groundwire.errors import InputError
from groundwire.types import Passage


def passages_of(items: Any) -> list[Passage]:
    """Passages from whatever a retriever returns: one item or an iterable of them.

    An item is a string, a Passage, a mapping with "text" (or "page_content") and perhaps "id", a LangChain `Document`,
    or a LlamaIndex node or `NodeWithScore`. The id of a document is its own, else its metadata's "id" or "source".
    Raises InputError on anything else, naming its type.
    """
    single = _passage(items)
    if single is not None:
        return [single]
    if not isinstance(items, Iterable) or isinstance(items, (bytes, Mapping)):
        raise _unusable(items)
    passages = []
    for item in items:
        passage = _passage(item)
        if passage is None:
            raise _unusable(item)
        passages.append(passage)
    return passages


def _passage(item: Any) -> Passage | None:
    """One item as a Passage; None where it is nothing that holds a text."""
    if isinstance(item, Passage):
        return item
    if isinstance(item, str):
        return Passage(item)
    if isinstance(item, Mapping):
        text, own, metadata = item.get("text", item.get("page_content")), item.get("id"), item.get("metadata")
    elif hasattr(item, "page_content"):
        text, own, metadata = item.page_content, getattr(item, "id", None), getattr(item, "metadata", None)
    elif callable(getattr(node := getattr(item, "node", item), "get_content", None)):
        text, own, metadata = node.get_content(), getattr(node, "node_id", None), None
    else:
        return None
    if own is None and isinstance(metadata, Mapping):
        own = metadata.get("id", metadata.get("source"))
    return Passage(text, None if own is None else str(own)) if isinstance(text, str) else None


def _unusable(item: Any) -> InputError:
    keys = f" with keys {sorted(map(str, item))}" if isinstance(item, Mapping) else ""
    return InputError(
        f"a passage of type {type(item).__module__}.{type(item).__qualname__}{keys}",
        expected='strings, {"id", "text"}, Passage, LangChain Document or LlamaIndex NodeWithScore',
        remedy="pass the passages' texts, for example [d.text for d in documents]",
    )
