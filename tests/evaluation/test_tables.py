"""Tables of reports keep their values when they are written and read."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from labkit import evaluation
from labkit.evaluation import tables
from tests.evaluation.test_curves import population, reports


@pytest.fixture
def two_curves():
    anchor, test = population(np.random.default_rng(12), 3)
    anchor[0].info |= {"lmbda": None, "scheme": {"rate": "aun", "channels": [1, 2]}, "pillow": "12.0", "psnr": "mean"}
    anchor[1].info |= {"seed": 2**60 + 1, "compiled": True, "note": 'a "b", c\nd', "mixed": 1}
    anchor[2].info |= {"mixed": "two", "compiled": False}
    anchor[0].rows[1]["ms_ssim"], anchor[0].rows[2]["psnr"] = math.nan, math.inf
    for row in anchor[0].rows:
        row["bytes"] = 12
    return {"one": anchor, "two": test}


def test_a_frame_has_one_row_per_image_and_operating_point(two_curves):
    frame = evaluation.to_frame(two_curves)
    assert len(frame) == 2 * 5 * 3 and list(frame["curve"].unique()) == ["one", "two"]
    assert json.loads(frame["scheme"][0]) == {"rate": "aun", "channels": [1, 2]}
    assert frame["info_psnr"][0] == "mean" and frame["psnr"][0] == two_curves["one"][0].rows[0]["psnr"]
    assert "lmbda" not in frame and set(frame["mixed"].dropna()) == {"1", "two"}
    assert "curve" not in evaluation.to_frame(two_curves["one"]) and len(evaluation.to_frame(two_curves["one"][0])) == 3


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
def test_tables_keep_values_and_types(two_curves, suffix, tmp_path):
    path = tmp_path / f"table{suffix}"
    everything = evaluation.to_frame(two_curves)
    plain = pd.DataFrame(
        {
            "name": ["007", "nan", ""],
            "count": [2**62, -1, 0],
            "whole": [1.0, 2.0, 1e300],
            "value": [0.1, math.nan, math.inf],
            "yes": [True, False, True],
            "none": [math.nan] * 3,
        }
    )
    for frame in (everything, plain, evaluation.curve(two_curves["two"])):
        evaluation.save_table(frame, path)
        read = evaluation.read_table(path)
        assert list(read) == list(frame)
        for column in frame:
            assert read[column].isna().equals(frame[column].isna())
            present = frame[column].notna()
            before, after = frame[column][present].tolist(), read[column][present].tolist()
            assert before == after and list(map(type, before)) == list(map(type, after))
            assert frame[column].dtype == read[column].dtype
    evaluation.save_table(evaluation.to_frame(two_curves), path)
    assert len(evaluation.read_table(path)) == 30
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_table(two_curves, tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    evaluation.save_table(evaluation.to_frame(two_curves["one"]), path)
    before = path.read_bytes()
    monkeypatch.setattr(tables, "_cell", lambda value: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluation.save_table(evaluation.to_frame(two_curves["two"]), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_unreadable_tables_cause_errors_of_one_line(tmp_path):
    (tmp_path / "other.csv").write_text("name,bpp\nkodim01,0.5\n")
    assert evaluation.read_table(tmp_path / "other.csv")["name"][0] == "kodim01"
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00\n\n")
    for name in ("bad.parquet", "empty.csv", "bad.csv"):
        with pytest.raises(ValueError, match="cannot be read as a table") as error:
            evaluation.read_table(tmp_path / name)
        assert "\n" not in str(error.value) and name in str(error.value)
    with pytest.raises(ValueError, match="there is no such file"):
        evaluation.read_table(tmp_path / "absent.csv")
    for function in (evaluation.read_table, lambda path: reports([1], [30])[0].save(path)):
        with pytest.raises(ValueError, match=r"path must end in \.csv or \.parquet, got .*table\.xlsx"):
            function(tmp_path / "table.xlsx")
