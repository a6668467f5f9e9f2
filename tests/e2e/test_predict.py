"""`predict` on object storage, through the real command line."""

import cv2
import numpy as np

from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines import storage
from pipelines.data.images import encode_png
from tests.support.networks import untrained_model


def test_photos_on_s3_become_labels_overlays_and_cut_outs_on_s3(s3, run_on_head):
    model = f"{s3}/predict/model"
    for name, data in untrained_model().items():
        storage.write_bytes(f"{model}/{name}", data)
    faces = [render_face(0, number, 96).image for number in range(3)]
    for number, face in enumerate(faces):
        storage.write_bytes(f"{s3}/predict/photos/{number}.png", encode_png(face))
    out = f"{s3}/predict/out"
    done = run_on_head(
        "predict", "--model", model, "--images", f"{s3}/predict/photos", "--out", out, "--cutouts", "--json"
    )
    assert done.code == 0, done.stderr
    assert done.result == {"out": out, "num_images": 3, "num_quarantined": 0, "reasons": {}, "remarks": {}}
    for number, face in enumerate(faces):
        label = image_at(f"{out}/labels/{number}.png")
        parts = {CELEBAMASK_HQ.classes[part] for part in np.unique(label) if part}
        written = {uri.rpartition("/")[2] for uri in storage.list_files(f"{out}/cutouts/{number}")} if parts else set()
        assert written == {f"{part}.png" for part in parts}
        for name in parts:
            mask = label == CELEBAMASK_HQ.classes.index(name)
            rows, columns = np.nonzero(mask)
            box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            cutout = image_at(f"{out}/cutouts/{number}/{name}.png")
            np.testing.assert_array_equal(cutout[..., 3] > 0, mask[box])
            np.testing.assert_array_equal(cutout[..., 2::-1], face[box])


def image_at(uri):
    return cv2.imdecode(np.frombuffer(storage.read_bytes(uri), np.uint8), cv2.IMREAD_UNCHANGED)
