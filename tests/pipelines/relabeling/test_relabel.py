"""Relabelling on the shared cluster: real actors, a real kill, and every row looked at."""

import os
import signal
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from ray.util.state import list_actors

from dmlcsr.quality import ConfidenceSums, given_probabilities
from dmlcsr.refine import Policy
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import Preprocessing
from pipelines import storage
from pipelines.config.commands import RelabelConfig
from pipelines.data import dataset, images, row_groups
from pipelines.data.order import Groups
from pipelines.data.ordered import OrderedRows
from pipelines.data.versions import QUARANTINED
from pipelines.errors import OutputTakenError, UserError
from pipelines.models import model_directory, setup
from pipelines.relabeling import relabel
from pipelines.run import claims, result_file
from pipelines.run.lock import ownership
from tests.support.data_sets import rows_of
from tests.support.relabelling import BAD, NUM_ROWS, by_hand, good_rows, labels_before, usable, write_model
from tests.support.training import smoke


def test_every_good_row_once_in_order_with_the_label_and_scores_of_a_plain_loop(replaced, mixed, model):
    config, result = replaced
    rows, before = rows_of(config.out), labels_before(config.out)
    assert [row["id"] for row in rows] == [row["id"] for row in rows_of(mixed)]
    assert before == [row["label"] for row in rows_of(mixed)]
    expected = list(by_hand(model, good_rows(mixed), Policy(name="replace")))
    for row, (old, refined, _, label) in zip(usable(rows), expected, strict=True):
        new = images.decode_label(row["label"])
        # A batch of another size may round another way where two classes are level.
        assert (new == refined.label).mean() > 0.999 and new.shape == refined.label.shape
        assert (row["id"], row["image"], row["meta"]) == (old["id"], old["image"], old["meta"])
        assert row["confidence"] == pytest.approx(refined.confidence, abs=1e-4)
        assert row["rule"] == ("unlabelled" if label is None else "replace")
        if label is None:
            assert row["quality"] is None and row["class_quality"] is None and row["changed_fraction"] == 1
        else:
            assert row["quality"] == pytest.approx(refined.quality.image, abs=1e-4)
            assert row["class_quality"] == pytest.approx(refined.quality.classes, abs=1e-4)
            assert row["changed_fraction"] == pytest.approx((new != label).mean(), abs=1e-6)
    scored = [row["quality"] for row in rows if row["quality"] is not None]
    assert result["mean_quality"] == pytest.approx(np.mean(scored), abs=1e-6)
    assert result["num_rows"] == {"train": NUM_ROWS - 2, "val": 5, "test": 0} and result["num_quarantined"] == 2
    changed = sum(row["changed_fraction"] > 0 for row in usable(rows))
    assert result["num_changed_rows"] == changed and result["resumed"] is False


def test_a_row_that_cannot_be_used_keeps_its_place_without_a_label(replaced, mixed):
    rows = rows_of(replaced[0].out)
    assert [number for number, row in enumerate(rows) if row["rule"] == QUARANTINED] == list(BAD)
    for number in BAD:
        scores = ("label", "quality", "class_quality", "changed_fraction", "confidence")
        assert {rows[number][name] for name in scores} == {None}
        assert rows[number]["image"] == rows_of(mixed)[number]["image"]
    files = dataset.read_manifest(replaced[0].out).splits["train"]
    assert [file.num_rejected for file in files] == [1, 0, 0, 1, 0, 0, 0, 0]
    assert [file.num_rows for file in files] == [16, 16, 16, 16, 16, 16, 16, 8]


def test_no_image_is_written_and_other_splits_are_referred_to(replaced, mixed):
    base, made = (dataset.read_manifest(uri) for uri in (mixed, replaced[0].out))
    assert made.splits["val"] == tuple(file.model_copy(update={"base": 0}) for file in base.splits["val"])
    assert not Path(replaced[0].out, "val").exists()
    assert [(each.uri, each.digest) for each in made.bases] == [(mixed, base.digest)]
    for file, before in zip(made.splits["train"], base.splits["train"], strict=True):
        assert file.images is not None and (file.images.path, file.images.sha256) == (before.path, before.sha256)
        assert file.previous == file.images
        stored = pq.read_schema(f"{replaced[0].out}/{file.path}").names
        assert stored == ["id", "label", "quality", "class_quality", "changed_fraction", "confidence", "rule"]


def test_the_manifest_says_what_was_done_by_what(replaced, mixed, model):
    config, _ = replaced
    manifest = dataset.read_manifest(config.out)
    told = manifest.relabelled
    assert manifest.lineage["data_digest"] == dataset.read_manifest(mixed).digest
    assert manifest.origins == (dataset.read_manifest(mixed).digest,)
    assert manifest.lineage["policy"] == "replace" and manifest.reasons == {"undecodable": 1, "unknown_id": 1}
    assert told["models"] == [{"model": model, "weights_sha256": model_directory.weights_digest(model)}]
    assert told["trained_on_data"] is None and "torch" in told["software"]["packages"]
    found = zip(labels_before(config.out), rows_of(config.out), strict=True)
    labels = [(images.decode_label(before), images.decode_label(row["label"])) for before, row in found if row["label"]]
    labels = [(before if before.shape == after.shape else np.full_like(after, 255), after) for before, after in labels]
    names = (*CELEBAMASK_HQ.classes, "ignored")
    pair, pixels = next(iter(told["changed_pixels"].items()))
    first, second = (names.index(name) for name in pair.split(" > "))
    ids = [np.minimum(before, 19) for before, _ in labels]
    assert pixels == sum(
        int(((before == first) & (after == second)).sum()) for before, (_, after) in zip(ids, labels, strict=True)
    )
    assert list(told["changed_pixels"].values()) == sorted(told["changed_pixels"].values(), reverse=True)
    assert sum(told["changed_pixels"].values()) == told["num_changed_pixels"]
    assert told["num_changed_pixels"] == sum(int((before != after).sum()) for before, after in labels)
    quarantine = storage.read_bytes(f"{config.out}/quarantine/part-00000.parquet")
    assert b"row/007" in quarantine and b"row/050" in quarantine


def test_training_takes_the_new_version_as_it_is(replaced):
    manifest = dataset.read_manifest(replaced[0].out)
    config = smoke(Path(replaced[0].out), "/unused")
    source = setup.train_stream(config, manifest, 0, 1)
    assert next(source.batches_here(0, 1))["label"].shape[1:] == (64, 64)
    batches = list(OrderedRows(source=source.source, preprocessing=Preprocessing(size=64)).chunks())
    labels = [label for batch in batches for label in batch["label"]]
    assert labels == [row["label"] for row in rows_of(replaced[0].out)]
    assert [reason for batch in batches for reason in batch["reason"] if reason] == [QUARANTINED] * 2


def test_the_same_command_on_a_finished_version_does_nothing(replaced, caplog):
    config, result = replaced
    before = {path: path.stat().st_mtime_ns for path in Path(config.out).rglob("*") if path.is_file()}
    with caplog.at_level("INFO"):
        assert relabel.run(config) == result
    assert "finished; nothing to do" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in Path(config.out).rglob("*") if path.is_file()} == before


def test_another_policy_or_model_on_the_same_output_is_refused(replaced, tmp_path):
    config, _ = replaced
    for change in ({"policy": "blend"}, {"model": write_model(tmp_path, seed=1)}, {"tta": True}):
        with pytest.raises(OutputTakenError, match=r"was begun with (policy|tta|model) ="):
            relabel.run(config.model_copy(update=change))


def test_suspect_changes_what_confident_learning_flags(mixed, model, tmp_path):
    config = RelabelConfig(model=model, data=mixed, out=str(tmp_path / "out"), policy="confident")
    relabel.run(config)
    sums = ConfidenceSums.zeros(19)
    for _, _, prediction, label in by_hand(model, good_rows(mixed), Policy(name="replace")):
        if label is not None:
            for rows, probs in prediction.strips():
                sums.add(given_probabilities(torch.from_numpy(label[rows]), probs))
    told = dataset.read_manifest(config.out).relabelled["thresholds"]
    assert list(told.values()) == pytest.approx(sums.thresholds(), abs=1e-4)
    policy = Policy(name="confident", thresholds=tuple(told.values()))
    expected = by_hand(model, good_rows(mixed), policy)
    for row, (_, refined, _, _) in zip(usable(rows_of(config.out)), expected, strict=True):
        assert (images.decode_label(row["label"]) == refined.label).mean() > 0.99
        assert row["rule"] == refined.rule


def test_too_many_bad_rows_stop_the_job_which_continues_when_they_are_allowed(mixed, model, tmp_path):
    config = RelabelConfig(model=model, data=mixed, out=str(tmp_path / "out"), policy="blend", max_bad_fraction=0.01)
    with pytest.raises(UserError, match=r"2 of the 120 rows .* --max-bad-fraction 0.01; the last: row/"):
        relabel.run(config)
    assert not storage.exists(f"{config.out}/{dataset.MANIFEST}")
    result = relabel.run(config.model_copy(update={"max_bad_fraction": 0.02}))
    assert result["resumed"] is True and result["num_quarantined"] == 2
    policy = Policy(name="blend", label_weight=0.4)
    expected = by_hand(model, good_rows(mixed), policy)
    for row, (_, refined, _, _) in zip(usable(rows_of(config.out)), expected, strict=True):
        assert (images.decode_label(row["label"]) == refined.label).mean() > 0.999


def test_an_actor_that_is_killed_with_9_changes_nothing_in_the_end(replaced, ray_cluster, tmp_path):
    config = replaced[0].model_copy(update={"out": str(tmp_path / "out")})
    killed = []

    def kill():
        while not (done := list(tmp_path.glob("out/receipts/train/*.json"))):
            time.sleep(0.01)
        assert len(done) < 8  # of 8 files
        actors = list_actors(ray_cluster, filters=[("state", "=", "ALIVE")])
        for actor in actors:
            if "RefineActor" in actor.class_name:
                os.kill(actor.pid, signal.SIGKILL)
                killed.append(actor.pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    relabel.run(config)
    thread.join(60)
    assert killed
    assert dataset.read_manifest(config.out).digest == dataset.read_manifest(replaced[0].out).digest


def test_a_second_live_driver_is_refused_and_a_half_written_version_is_none(mixed, model, tmp_path):
    config = RelabelConfig(model=model, data=mixed, out=str(tmp_path / "out"))
    lineage = relabel.lineage_of(config, dataset.read_manifest(mixed))
    digests = {name: lineage[f"{name}_digest"] for name in ("data", "model")}
    claims.write_claim("relabel", config, config.out, digests)
    with pytest.raises(UserError, match="not a data set"):
        dataset.read_manifest(config.out)
    with ownership(config.out), pytest.raises(OutputTakenError, match=f"process {os.getpid()} on"):
        relabel.run(config)


def test_rows_are_counted_for_prometheus(replaced):
    (node,) = ray.nodes()
    address = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 60
    while True:  # nodes report every few seconds
        text = urllib.request.urlopen(address, timeout=10).read().decode()
        found = {name for name in ("rows", "bad_rows", "changed_pixels") if f"ray_relabel_{name}_total" in text}
        if len(found) == 3 and "ray_relabel_images_per_second" in text:
            break
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def test_a_model_that_was_trained_on_the_data_is_told(mixed, tmp_path, caplog):
    seen = write_model(tmp_path / "seen", lineage={"origins": list(dataset.read_manifest(mixed).origins)})
    other = write_model(tmp_path / "other", lineage={"origins": ["0" * 64]})
    manifest = dataset.read_manifest(mixed)
    assert model_directory.has_seen(model_directory.read_card(seen), manifest.origins) is True
    assert model_directory.has_seen(model_directory.read_card(other), manifest.origins) is False
    for teacher, is_warned in ((other, False), (seen, True)):
        caplog.clear()
        relabel.check_inputs(RelabelConfig(model=teacher, data=mixed, out=str(tmp_path / "out")), manifest)
        assert ("was trained on the images" in caplog.text) is is_warned


def test_a_split_without_rows_is_refused(mixed, model, tmp_path):
    with pytest.raises(UserError, match="has no test rows"):
        relabel.run(RelabelConfig(model=model, data=mixed, out=str(tmp_path / "out"), splits=("test",)))


def test_a_model_whose_weights_are_missing_is_one_sentence_before_anything_is_written(mixed, tmp_path):
    model = write_model(tmp_path / "model")
    Path(model, "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        relabel.run(RelabelConfig(model=model, data=mixed, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_what_another_command_has_left_is_not_touched(mixed, tmp_path):
    model = write_model(tmp_path / "model")
    result_file.write("train", str(tmp_path / "run"), {"run": "r"}, 0, "done")
    config = RelabelConfig(model=model, data=mixed, out=str(tmp_path / "run"), splits=("test",))
    with pytest.raises(OutputTakenError, match="holds the output of `train`"):
        result_file.run_and_record("relabel", config, relabel.run)
    assert result_file.finished_result(str(tmp_path / "run"), "train") == {"run": "r"}


def test_each_file_of_the_data_set_is_one_shard(mixed):
    source = row_groups.open_split(mixed, dataset.read_manifest(mixed), "train")
    assert [shard.work for shard in relabel.make_shards("train", source)] == [[number] for number in range(8)]
    large = replace(source, files=("a", "b", "c"), groups=Groups(np.array([40, 16, 17]), 16))
    assert [list(large.groups.of_file(file)) for file in range(3)] == [[0, 1, 2], [3], [4, 5]]
