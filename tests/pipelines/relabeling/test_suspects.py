"""The worst labels as people and labelling tools get them, read back by other readers."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.data import images
from tests.support.brush import decode_brush
from tests.support.data_sets import rows_of
from tests.support.relabelling import SUSPECTS, labels_before


def test_the_worst_labels_come_out_for_people_and_tools(replaced, model):
    config, _ = replaced
    folder = Path(config.out, "suspects")
    before = labels_before(config.out)
    found = zip(rows_of(config.out), before, strict=True)
    rows = {row["id"]: row | {"label_previous": label} for row, label in found}
    worst = sorted((row["quality"], row["id"]) for row in rows.values() if row["quality"] is not None)[:SUSPECTS]
    tasks = json.loads((folder / "label_studio-00000.json").read_text())
    assert [task["data"]["id"] for task in tasks] == [row_id for _, row_id in worst]
    after, before = COCO(str(folder / "coco.json")), COCO(str(folder / "coco_before.json"))
    after.info()
    shapes = []
    for number, (task, (_, row_id)) in enumerate(zip(tasks, worst, strict=True), start=1):
        row = rows[row_id]
        image = images.decode_image(row["image"])
        shapes.append(image.shape)
        for column, reader, version in (("label", after, 0), ("label_previous", before, 1)):
            label = cv2.resize(images.decode_label(row[column]), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            assert (from_coco(reader, number, label.shape) == label).all()
            assert (from_brushes(task["predictions"][version]["result"], label.shape) == label).all()
        picture = folder / task["data"]["image"].removeprefix("/data/local-files/?d=")
        assert (images.decode_image(picture.read_bytes()) == image).all()
        assert picture.name == after.loadImgs(number)[0]["file_name"]
    assert {(96, 96, 3), (96, 64, 3)} == set(shapes)
    pictures = re.findall(r'src="([^"]+)"', (folder / "index.html").read_text())
    for name, (height, width, _) in zip(pictures, shapes, strict=True):
        picture = cv2.imread(str(folder / name))
        assert picture.shape[0] > height and picture.shape[1] == 4 * width, "four pictures above a legend"
    names = re.findall(r'<Label value="([^"]+)"', (folder / "label_studio.xml").read_text())
    assert names == [*CELEBAMASK_HQ.classes[1:], "ignored"]


def from_coco(reader, image, shape):
    assert (reader.loadImgs(image)[0]["height"], reader.loadImgs(image)[0]["width"]) == shape
    found = np.zeros(shape, np.uint8)
    for annotation in reader.loadAnns(reader.getAnnIds(imgIds=image)):
        mask = reader.annToMask(annotation).astype(bool)
        assert annotation["iscrowd"] == 0 and isinstance(annotation["segmentation"]["counts"], str)
        assert annotation["area"] == mask.sum()
        encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert annotation["bbox"] == coco_mask.toBbox(encoded).tolist()
        found[mask] = annotation["category_id"]
    return found


def from_brushes(regions, shape):
    found = np.zeros(shape, np.uint8)
    ids = {name: number for number, name in enumerate(CELEBAMASK_HQ.classes)} | {"ignored": 255}
    for region in regions:
        assert (region["original_height"], region["original_width"]) == shape
        mask = decode_brush(region["value"]["rle"]).reshape(*shape, 4)
        found[mask[..., 3] > 0] = ids[region["value"]["brushlabels"][0]]
    return found
