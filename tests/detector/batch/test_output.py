from __future__ import annotations

import json

import pytest

from groundwire.batch.output import StreamOutput, line_of
from groundwire.errors import GroundwireError


def test_rows_of_a_stream_are_written_when_their_turn_has_come(capsys):
    with StreamOutput() as output:
        output.put([(2, line_of("c", {})), (1, line_of("b", {}))])
        assert capsys.readouterr().out == ""
        output.put([(0, line_of("a", {}))], keep=False)
        output.put([(3, line_of(4, {}))])
        output.finish(4)
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["a", "b", "c", 4]


def test_a_reader_that_has_gone_is_a_clear_error(monkeypatch):
    class Gone:
        def write(self, text: str) -> None:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Gone())
    with pytest.raises(GroundwireError, match="standard output: Broken pipe"):
        StreamOutput().put([(0, line_of("a", {}))])


def test_a_line_is_utf_8_without_escapes_and_holds_no_number_that_json_lacks():
    assert line_of("größe", {"score": 0.5}) == '{"id": "größe", "hallucination": {"score": 0.5}}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        line_of(1, {"score": float("nan")})
