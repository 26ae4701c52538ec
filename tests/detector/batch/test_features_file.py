from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundwire.batch.features_file import FeaturesFile, about_features, check_features, parts_path
from groundwire.batch.unit import LocalRunner, Options, Scored, Unit
from groundwire.engines.fake import fake_detector
from groundwire.errors import GroundwireError, InputError
from tests.detector.batch.breaking import units

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

ABOUT = about_features(fake_detector().artifact)


def scored(given: list[Unit], of: Any) -> list[Scored]:
    return list(LocalRunner(fake_detector(), Options(0.5, features=of)).run(given))


def crossed() -> list[Unit]:
    """Units whose rows are not next to each other; one row is not checked."""
    first, second = units(2, unit1="")
    return [
        replace(first, places=(4, 0, 3), number=1),
        replace(second, places=(1, 5, 2), number=0),
    ]


def table(target: Path) -> dict[str, list[Any]]:
    return parquet.read_table(target).to_pydict()


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "features.parquet"


def test_responses_have_mean_and_maximum_of_each_term(target):
    with FeaturesFile(target, of="response", about=ABOUT) as file:
        for each in reversed(scored(crossed(), "response")):
            file.write(each)
        file.finish()
    found = table(target)
    assert found["row"] == [0, 3, 4, 2, 5]  # by parts; row 1 was not checked
    assert not parts_path(target).exists()
    detector = fake_detector()
    for unit in crossed():
        for place, example, detection in zip(
            unit.places, unit.examples, detector.score_batch(unit.examples, features=True), strict=True
        ):
            if detection.features is None:
                assert place not in found["row"]
                continue
            at = found["row"].index(place)
            assert found["id"][at] == example.id
            np.testing.assert_allclose(found["mean"][at], detection.features.mean(0), atol=1e-6)
            np.testing.assert_array_equal(found["max"][at], detection.features.amax(0))


def test_tokens_have_a_row_each(target):
    given = crossed()
    with FeaturesFile(target, of="token", about=ABOUT) as file:
        for each in scored(given, "token"):
            file.write(each)
        file.finish()
    found = table(target)
    for unit in given:
        detections = fake_detector().score_batch(unit.examples, features=True)
        for place, detection in zip(unit.places, detections, strict=True):
            own = [i for i, row in enumerate(found["row"]) if row == place]
            expected = [] if detection.features is None else detection.features.tolist()
            assert [found["activations"][i] for i in own] == expected
            assert [found["token"][i] for i in own] == list(range(len(expected)))


def test_the_file_says_what_its_columns_are(target):
    with FeaturesFile(target, of="response", about=ABOUT) as file:
        file.finish()
    schema = parquet.read_schema(target)
    assert str(schema.field("mean").type).startswith("fixed_size_list<")
    assert schema.field("mean").type.list_size == 2
    about = json.loads(schema.metadata[b"groundwire"])
    assert about["detector"] == "fake"
    assert about["hookpoint"] == "model.layers.0"
    assert about["of"] == "response"
    assert about["terms"][0] == {"kind": "latent", "name": "word absent from the prompt", "feature_id": 0}
    assert table(target)["row"] == []


def test_a_run_that_was_ended_goes_on_with_its_parts(target):
    first, second = scored(crossed(), "response")
    with pytest.raises(RuntimeError), FeaturesFile(target, of="response", about=ABOUT) as file:  # noqa: PT012
        file.write(first)
        (parts_path(target) / "000000000001-0.new").write_bytes(b"torn")
        raise RuntimeError
    assert not target.exists()
    with FeaturesFile(target, of="response", about=ABOUT, fresh=False) as file:
        assert file.has(first.unit)
        assert not file.has(second.unit)
        file.write(second)
        file.write(first)
        file.finish()
    assert table(target)["row"] == [0, 3, 4, 2, 5]
    with FeaturesFile(target, of="response", about=ABOUT, fresh=False, complete=True) as file:
        assert file.has(second.unit)
        file.finish()
    assert table(target)["row"] == [0, 3, 4, 2, 5]


def test_parts_of_another_run_or_detector_are_refused_and_overwritten_if_asked(target):
    first, second = scored(crossed(), "response")
    with FeaturesFile(target, of="response", about=ABOUT, run="a") as file:
        file.write(first)
    for other in ({"run": "b"}, {"about": {**ABOUT, "version": "2"}}, {"of": "token"}):
        given = {"of": "response", "about": ABOUT, "run": "a", "fresh": False} | other
        with pytest.raises(InputError, match="of another run or detector"):
            FeaturesFile(target, **given).__enter__()
    with pytest.raises(InputError, match="of another run or detector"):  # which may still go on
        FeaturesFile(target, of="response", about=ABOUT, run="b").__enter__()
    with FeaturesFile(target, of="response", about=ABOUT, run="b", overwrite=True) as file:
        assert not file.has(first.unit)
        file.write(second)
        file.finish()
    assert table(target)["row"] == [2, 5]


def test_an_existing_file_is_not_lost(target, tmp_path):
    target.write_text("mine")
    with pytest.raises(InputError, match="exists"):
        check_features(target)
    with pytest.raises(InputError, match="exists"):
        FeaturesFile(target, of="response", about=ABOUT).__enter__()
    with FeaturesFile(target, of="response", about=ABOUT, overwrite=True) as file:
        file.finish()
    assert table(target)["row"] == []
    check_features(target, overwrite=True)
    check_features(target, resume=True)
    with pytest.raises(InputError, match=r"a \.parquet file"):
        check_features(tmp_path / "features.csv")
    with pytest.raises(InputError, match="another file of the run"):
        check_features(tmp_path / "out.parquet", others=["in.jsonl", tmp_path / "out.parquet"])
    with pytest.raises(InputError, match="no folder"):
        check_features(tmp_path / "nowhere" / "features.parquet")


def test_row_groups_are_of_some_size(target, monkeypatch):
    monkeypatch.setattr("groundwire.batch.features_file.GROUP", 300)
    with FeaturesFile(target, of="response", about=ABOUT) as file:
        for each in scored(units(6), "response"):
            file.write(each)
        file.finish()
    assert table(target)["row"] == list(range(18))
    assert 1 < parquet.ParquetFile(target).num_row_groups < 6


def test_a_disk_that_fails_is_said(target, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(target))

    with FeaturesFile(target, of="response", about=ABOUT) as file:
        monkeypatch.setattr("groundwire.batch.features_file._sync", full)
        with pytest.raises(GroundwireError, match="No space left"):
            file.write(scored(crossed(), "response")[0])
