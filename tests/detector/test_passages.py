"""What a retriever may hand over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from groundwire.errors import InputError
from groundwire.passages import passages_of
from groundwire.types import Passage


@dataclass
class Document:
    """Has the attributes of LangChain's, and like it iterates over its fields."""

    page_content: str
    metadata: dict[str, Any] = field(default_factory=dict)
    id: str | None = None

    def __iter__(self) -> Any:
        return iter(vars(self).items())


@dataclass
class Node:
    text: str
    node_id: str

    def get_content(self) -> str:
        return self.text


@dataclass
class NodeWithScore:
    node: Node
    score: float


@pytest.mark.parametrize(
    ("item", "passage"),
    [
        ("text", Passage("text")),
        (Passage("text", "7"), Passage("text", "7")),
        ({"id": "7", "text": "text"}, Passage("text", "7")),
        ({"id": 7, "text": "text", "score": 0.5}, Passage("text", "7")),
        ({"text": "text"}, Passage("text")),
        ({"page_content": "text", "metadata": {"source": "a.txt"}}, Passage("text", "a.txt")),
        (Document("text"), Passage("text")),
        (Document("text", {"source": "a.txt"}), Passage("text", "a.txt")),
        (Document("text", {"source": "a.txt", "id": "7"}), Passage("text", "7")),
        (Document("text", {"id": "7"}, id="8"), Passage("text", "8")),
        (Node("text", "7"), Passage("text", "7")),
        (NodeWithScore(Node("text", "7"), 0.5), Passage("text", "7")),
    ],
)
def test_one_item_alone_and_in_a_list(item: Any, passage: Passage) -> None:
    assert passages_of(item) == [passage]
    assert passages_of([item, "more"]) == [passage, Passage("more")]


def test_any_iterable_will_do() -> None:
    assert passages_of(text for text in ("a", "b")) == [Passage("a"), Passage("b")]
    assert passages_of(()) == []


@pytest.mark.parametrize(
    ("items", "named"),
    [
        (3, "builtins.int"),
        (None, "NoneType"),
        (b"text", "builtins.bytes"),
        (["text", 3], "builtins.int"),
        ({"body": "text"}, "keys ['body']"),
        ([{"text": None}], "keys ['text']"),
        ([["text"]], "builtins.list"),
    ],
)
def test_anything_else_is_refused_by_its_type(items: Any, named: str) -> None:
    with pytest.raises(InputError) as refused:
        passages_of(items)
    assert named in refused.value.given
    assert "LangChain Document" in refused.value.expected


def test_langchain_documents() -> None:
    documents = pytest.importorskip("langchain_core.documents")
    found = [documents.Document(page_content="text", metadata={"source": "a.txt"}), documents.Document("more", id="7")]
    assert passages_of(found) == [Passage("text", "a.txt"), Passage("more", "7")]
    assert passages_of(found[0]) == [Passage("text", "a.txt")]


def test_llamaindex_nodes() -> None:
    schema = pytest.importorskip("llama_index.core.schema")
    node = schema.TextNode(text="text", id_="7", metadata={"file": "a.txt"})
    assert passages_of([schema.NodeWithScore(node=node, score=0.5), node]) == [Passage("text", "7")] * 2
    assert passages_of(schema.NodeWithScore(node=node)) == [Passage("text", "7")]
