"""How a set is cut into files and row groups, by arithmetic alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import dataset
from pipelines.ingest import pack, synth

MANY = 10_000_000


@pytest.mark.parametrize("mean_bytes", [0, 300, 8_000, 60_000, 350_000, 524_288, 900_000, 3_000_000, 8_388_608])
def test_files_of_a_large_set_have_128_to_512_mb_or_1024_row_groups(mean_bytes):
    size, groups = pack.rows_per_group(mean_bytes), pack.groups_per_file(MANY, mean_bytes)
    image_bytes = size * groups * mean_bytes
    assert size * mean_bytes <= 8 << 20 and size <= dataset.ROWS_PER_GROUP
    if groups < pack.MAX_GROUPS:
        assert image_bytes >= 128 << 20 and 1.5 * image_bytes <= 512 << 20, "with labels of half the images' size"
    else:
        assert groups == pack.MAX_GROUPS and image_bytes <= 300 << 20


@given(num_rows=st.integers(0, 200_000), mean_bytes=st.integers(0, 10**8))
def test_shards_are_all_rows_in_order_cut_at_row_groups(num_rows, mean_bytes):
    shards = pack.make_shards({"train": num_rows}, mean_bytes)
    size = pack.rows_per_group(mean_bytes)
    ends = [0, *(shard.work[1] for shard in shards)]
    assert [shard.work[0] for shard in shards] == ends[:-1] and ends[-1] == num_rows
    assert all(start % size == 0 for start in ends[:-1])
    num_groups = -(-num_rows // size)
    assert len(shards) >= min(num_groups, 16)
    assert [shard.number for shard in shards] == list(range(len(shards)))


@given(num_images=st.integers(0, 200), cut=st.integers(1, 7))
def test_procedural_faces_are_in_their_splits_whatever_the_cut(num_images, cut):
    faces = synth.Faces(num_images)
    found = {
        split: [item for start in range(0, count, cut) for item in faces.read(split, start, min(start + cut, count))]
        for split, count in faces.num_rows().items()
    }
    assert sorted(index for items in found.values() for _, index in items) == list(range(num_images))
    for split, items in found.items():
        assert all(name == split for name, _ in items)
        assert {index % 10 for _, index in items} <= (
            {8} if split == "val" else {9} if split == "test" else set(range(8))
        )
