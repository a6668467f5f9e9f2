"""Estimates of what commands read and write, and the plans that show them."""

import pytest

from pipelines import plan
from pipelines.config.commands import CopyConfig
from pipelines.config.training import TrainConfig
from pipelines.data import traffic
from pipelines.errors import UserError
from tests.support.label_versions import write_base, write_version

SIZES = {"train": [5, 2], "val": [3]}


def test_every_row_group_of_labels_and_of_images_is_a_request(tmp_path):
    base = write_base(str(tmp_path / "base"), SIZES)
    version = write_version(str(tmp_path / "version"), str(tmp_path / "base"), ["train"])
    alone = traffic.reading(base, ["train"])
    assert alone == traffic.Traffic(sum(file.num_bytes for file in base.splits["train"]), 3 + 1 + 2)
    apart = traffic.reading(version, ["train"], num_processes=3)
    num_bytes = alone.num_bytes + sum(file.num_bytes for file in version.splits["train"])
    assert apart == traffic.Traffic(num_bytes, 2 * (3 + 1 + 3 * 2))


def test_a_new_version_is_as_large_as_its_labels(tmp_path):
    manifest = write_base(str(tmp_path / "base"), SIZES)
    written = traffic.writing_labels(str(tmp_path / "base"), manifest, ["train"])
    num_labels = 7 * len("train/0/0")
    assert num_labels < written.num_bytes < num_labels + 7 * 150 and written.requests == 3 + 2 * 2
    assert traffic.writing_labels(str(tmp_path / "base"), manifest, []).num_bytes == 0


def test_a_plan_says_hours_only_if_the_speed_is_known(tmp_path):
    write_base(str(tmp_path / "base"), SIZES)
    config = CopyConfig(data=str(tmp_path / "base"), out=str(tmp_path / "out"))
    assert "hours" not in plan.run("copy", config)["work"]
    work = plan.run("copy", config, 0.5)["work"]
    assert work["hours"] == pytest.approx(work["rows"] / 0.5 / 3600)
    assert work["requests"] > 0 and work["bytes_written"] == work["bytes_read"]


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "fast", ""])
def test_a_speed_is_a_number_above_0(text):
    with pytest.raises(UserError, match="--images-per-second"):
        plan.images_per_second(text)


def test_the_speed_of_a_training_is_that_of_its_last_epoch(tmp_path):
    write_base(str(tmp_path / "base"), SIZES)
    (tmp_path / "run").mkdir()
    record = '{"epoch": 1, "time": 0.0, "val_mean_f1": 0.5, "images_per_second": 40.0}\n'
    (tmp_path / "run/metrics.jsonl").write_text(record)
    config = TrainConfig(data=str(tmp_path / "base"), out=str(tmp_path / "run"), optimizer={"batch_size": 1})
    work = plan.run("train", config)["work"]
    assert work["images_per_second"] == 40
    assert work["hours"] == pytest.approx(work["training_rows"] * work["epochs"] / 40 / 3600)
