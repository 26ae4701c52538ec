from __future__ import annotations

import gzip
import json

import pytest

from groundwire.errors import InputError
from groundwire.training.text import Document, read_documents, sequences

LONG = "The bridge was built in 1889. " * 20


def drawn(path, tiny, **options):
    return list(sequences(path, tiny.tokenizer, **{"held_out": False, "context": 64, **options}))


def is_rag(tiny, ids):
    return tiny.tokenizer.convert_tokens_to_ids("<|im_start|>") in ids


def test_the_same_arguments_give_the_same_sequences(articles, tiny):
    assert drawn(articles, tiny) == drawn(articles, tiny)
    assert drawn(articles, tiny) != drawn(articles, tiny, seed=1)


def test_every_document_is_either_trained_on_or_held_out(articles, tiny):
    """Plain windows of both sides, read back as text, come from documents of their own side and no other."""
    documents = list(read_documents(articles))
    for held_out in (False, True):
        own = " ".join(d.text for d in documents if d.held_out is held_out)
        other = " ".join(d.text for d in documents if d.held_out is not held_out)
        texts = [tiny.tokenizer.decode(ids) for ids in drawn(articles, tiny, held_out=held_out, rag_share=0.0)]
        assert texts
        assert all(text in own and text not in other for text in texts)
    assert 0.04 < sum(d.held_out for d in documents) / len(documents) < 0.25


def test_rag_prompts_are_built_from_the_documents_of_their_side(articles, tiny):
    """Titles are numbers of articles: the questions of held-out prompts name held-out articles alone."""
    titles = {held: {d.title for d in read_documents(articles) if d.held_out is held} for held in (False, True)}
    for held in (False, True):
        for ids in drawn(articles, tiny, held_out=held, rag_share=1.0, context=2000):
            text = tiny.tokenizer.decode(ids)
            assert not any(f"{title}?" in text or f"{title}." in text for title in titles[not held])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_rag_prompts_is_respected(articles, tiny, share):
    documents = sum(not d.held_out for d in read_documents(articles))
    rag = sum(is_rag(tiny, ids) for ids in drawn(articles, tiny, rag_share=share))
    assert rag / documents == pytest.approx(share, abs=0.15)


def test_lengths_stay_within_the_context(articles, tiny):
    assert max(map(len, drawn(articles, tiny, rag_share=0.0))) <= 64
    assert max(map(len, drawn(articles, tiny, rag_share=1.0))) == 128


def test_long_documents_give_four_windows_and_one_paragraph_stays_plain(tmp_path, tiny):
    path = tmp_path / "one.jsonl"
    texts = [f"{i} {LONG}" * 20 for i in range(20)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    kept = sum(not Document("", text).held_out for text in texts)
    found = drawn(path, tiny, rag_share=1.0)
    assert len(found) == 4 * kept
    assert not any(is_rag(tiny, ids) for ids in found)


def test_gzip_blank_lines_and_missing_titles_are_read(tmp_path):
    path = tmp_path / "text.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"text": LONG}) + "\n\n" + json.dumps({"text": "short", "title": "x"}) + "\n")
    assert list(read_documents(path)) == [Document("", LONG)]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_documents(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("line", ["{", "[]", '{"title": "x"}', '{"text": null}', '{"text": 3}', "3"])
def test_an_unusable_line_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"text": LONG}) + f"\n{line}\n")
    with pytest.raises(InputError, match=r"bad\.jsonl, line 2"):
        list(read_documents(path))


def test_a_file_without_text_is_refused(tmp_path):
    path = tmp_path / "short.jsonl"
    path.write_text('{"text": "short"}\n')
    with pytest.raises(InputError, match="holds no text of 400"):
        list(read_documents(path))
