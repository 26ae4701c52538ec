"""/v1/detect: every row has its verdict, in order; what cannot be read says so; limits hold."""

from __future__ import annotations

import json
import time

import httpx
import hypothesis
import hypothesis.strategies as st
import pytest

from groundwire.batch.rows import parse_row
from groundwire.engines.fake import fake_detector
from groundwire.guard import decide
from groundwire.server import detect
from groundwire.server.settings import Settings


def test_one_row_gets_the_verdict_that_score_gives_it(served, row, bad_row):
    server, detector = served(), fake_detector()
    for given, flagged in ((row, False), (bad_row, True)):
        reply = server.client.post("/v1/detect", json=given | {"id": "mine"})
        wanted = decide(detector.score(parse_row(given, default_id="mine")), detector.threshold).to_dict()
        assert reply.status_code == 200
        assert reply.json() == {"id": "mine", "hallucination": wanted}
        assert wanted["flagged"] is flagged


def test_rows_are_answered_in_order_and_bad_ones_in_their_place(served, row, bad_row):
    rows = [row, "no row", bad_row | {"id": 7}, {"response": "x"}, row | {"context": []}, row | {"response": " "}]
    found = served().client.post("/v1/detect", json={"inputs": rows}).json()["results"]
    assert [r["id"] for r in found] == [0, 1, 7, 3, 4, 5]
    verdicts = [r["hallucination"] for r in found]
    assert [v["reason"] for v in verdicts] == [
        None, "invalid_input", None, "invalid_input", "no_passages", "empty_response"
    ]  # fmt: skip
    assert [v["flagged"] for v in verdicts] == [False, None, True, None, None, None]
    assert "the row is str 'no row'" in verdicts[1]["detail"]
    assert all(v["detector"]["id"] == "fake" for v in verdicts)


def test_many_rows_keep_their_order(served, row):
    server = served()
    words = ["1931", "642", "Tokyo", "long", "Rome", "bridge", "Oslo"] * 12
    rows = [row | {"id": word, "response": f"The bridge opened in {word}."} for word in words]
    found = server.client.post("/v1/detect", json={"inputs": rows}).json()["results"]
    assert [r["id"] for r in found] == words
    assert [r["id"] for r in found if r["hallucination"]["flagged"]] == ["Tokyo", "Rome", "Oslo"] * 12


def test_options_are_honoured(served, bad_row):
    server = served()

    def ask(**options):
        return server.client.post("/v1/detect", json=bad_row | {"hallucination": options}).json()["hallucination"]

    assert ask()["tokens"] is None
    assert [t["token"] for t in ask(tokens=True)["tokens"]] == ["The", " bridge", " opened", " in", " Tokyo", "."]
    assert ask(top_terms=1)["terms"] == ask()["terms"][:1]
    assert (ask(threshold=1)["flagged"], ask(threshold=1)["threshold"]) == (False, 1)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"hallucination": {"threshold": 2}}, "hallucination.threshold"),
        ({"hallucination": {"top_terms": -1}}, "hallucination.top_terms"),
        ({"hallucination": {"tokns": True}}, "hallucination.tokns"),
        ({"hallucination": []}, "hallucination"),
        ({"inputs": "x"}, "inputs"),
        ({"inputs": []}, "context"),  # the row beside it would be dropped
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(served, row, change, param):
    reply = served(settings=Settings(max_rows=2)).client.post("/v1/detect", json=row | change)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


def test_too_many_rows_are_refused(served, row):
    client = served(settings=Settings(max_rows=2)).client
    for count, status in ((2, 200), (3, 400)):
        reply = client.post("/v1/detect", json={"inputs": [row] * count})
        assert reply.status_code == status
    assert (reply.json()["error"]["param"], reply.json()["error"]["code"]) == ("inputs", "too_many_inputs")


def test_no_rows_have_no_results(served):
    assert served().client.post("/v1/detect", json={"inputs": []}).json() == {"results": []}


def test_text_that_is_no_text_is_answered(served, row):
    body = '{"id": "\\ud800", "prompt": "a \\ud83d", "response": "b"}'
    reply = served().client.post("/v1/detect", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 200
    assert reply.json()["id"] == 0
    assert reply.json()["hallucination"]["reason"] == "invalid_input"


def test_a_prompt_beyond_the_context_is_not_checked(served, row):
    reply = served().client.post("/v1/detect", json=row | {"context": "word " * 3000})
    assert reply.json()["hallucination"]["reason"] == "prompt_too_long"


def test_verdicts_are_counted(served, row, bad_row):
    server = served()
    server.client.post("/v1/detect", json={"inputs": [row, bad_row, {}]})
    text = server.client.get("/metrics").text
    assert 'groundwire_score_count{source="detect"} 2.0' in text
    assert 'groundwire_flagged_total{source="detect"} 1.0' in text
    assert 'groundwire_not_checked_total{reason="invalid_input",source="detect"} 1.0' in text


def test_the_schema_names_the_fields_of_a_row():
    known = set(detect.DetectRow.model_fields)
    assert {"id", "response", "prompt", "messages", "context", "question", "inputs", "hallucination"} == known


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    PLAIN, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3), max_leaves=8
)
FIELDS = st.sampled_from(
    [*detect.DetectRow.model_fields, *detect.DetectOptions.model_fields, "text", "role", "content"]
)
BODIES = st.recursive(VALUES, lambda v: st.lists(v, max_size=3) | st.dictionaries(FIELDS, v, max_size=5), max_leaves=12)


@pytest.fixture(scope="module")
def lasting(serving):
    with serving() as server:
        yield server


@hypothesis.given(BODIES)
def test_whatever_json_is_sent_is_answered(lasting, body):
    content = json.dumps(body).encode()
    reply = lasting.client.post("/v1/detect", content=content, headers={"content-type": "application/json"})
    assert reply.status_code in (200, 400)
    if reply.status_code == 400:
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        return
    rows = reply.json()["results"] if isinstance(body, dict) and body.get("inputs") is not None else [reply.json()]
    assert all(row["hallucination"]["status"] in ("checked", "not_checked") for row in rows)


def test_work_ends_when_the_client_has_gone(served, row):
    detector = fake_detector()
    score, scored = detector.score_batch, []

    def slow(examples):
        time.sleep(0.05)
        scored.extend(examples)
        return score(examples)

    detector.score_batch = slow
    server = served(detector=detector)
    rows = [row | {"response": f"The bridge opened in {i}."} for i in range(200)]
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/v1/detect", json={"inputs": rows}, timeout=0.1)
    deadline = time.monotonic() + 30
    while server.app.state.loop.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert 0 < len(scored) < 200
    assert server.app.state.loop.waiting == 0
