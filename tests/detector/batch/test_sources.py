from __future__ import annotations

import pytest

from groundwire.batch import sources
from groundwire.batch.sources import Source, check_readable, expand, opened, source_of
from groundwire.errors import InputError, MissingExtra


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("a.jsonl", "jsonl", ""),
        ("a.JSONL.GZ", "jsonl", "gz"),
        ("a.csv.zst", "csv", "zst"),
        ("a.parquet", "parquet", ""),
        ("a", "jsonl", ""),
        ("-", "jsonl", ""),
        ("a.b.log", "jsonl", ""),
    ],
)
def test_the_suffixes_say_the_format(name, format, compression):
    assert source_of(name) == Source(name, format, compression)


def test_compressed_parquet_is_refused():
    with pytest.raises(InputError, match="compressed Parquet"):
        source_of("a.parquet.gz")


def test_globs_are_sorted_within_the_order_given(tmp_path):
    for name in ("b1.jsonl", "b0.jsonl", "a.csv", "x[1].jsonl"):
        (tmp_path / name).touch()
    given = [tmp_path / "b*.jsonl", tmp_path / "a.csv", tmp_path / "x[1].jsonl"]
    names = [source.path.rsplit("/", 1)[1] for source in expand(given)]
    assert names == ["b0.jsonl", "b1.jsonl", "a.csv", "x[1].jsonl"]


def test_a_glob_of_nothing_and_standard_input_twice_are_errors(tmp_path):
    with pytest.raises(InputError, match="no file matches"):
        expand(str(tmp_path / "*.jsonl"))
    with pytest.raises(InputError, match="twice"):
        expand(["-", "-"])


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_broken_compression_is_an_input_error(tmp_path, name):
    pytest.importorskip("zstandard")
    (tmp_path / name).write_bytes(b"not compressed at all")
    with pytest.raises(InputError, match="cannot read"), opened(source_of(tmp_path / name)) as stream:
        stream.read()


@pytest.mark.parametrize(("name", "package"), [("a.parquet", "pyarrow"), ("a.jsonl.zst", "zstandard")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, package):
    (tmp_path / name).touch()
    monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=package):
        check_readable(sources.source_of(tmp_path / name))
