"""What is done with every verdict."""

from __future__ import annotations

from types import SimpleNamespace

from groundwire.guard import decide
from groundwire.server.metrics import Metrics
from groundwire.server.recording import record
from groundwire.server.tracing import Tracing
from groundwire.server.verdict_log import Entry
from groundwire.types import Detection


def test_it_is_counted_and_logged_where_there_is_a_log():
    entry = Entry("a", "gateway", decide(Detection("not_checked", "tool_call"), 0.5))
    written: list[Entry] = []
    for log in (None, SimpleNamespace(write=written.append)):
        metrics = Metrics()
        record(SimpleNamespace(metrics=metrics, tracing=Tracing(), verdict_log=log), entry)
        assert b'groundwire_not_checked_total{reason="tool_call",source="gateway"} 1.0' in metrics.render()
    assert written == [entry]
