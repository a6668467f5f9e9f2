"""Files for labelling tools, without Ray."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipelines import storage
from pipelines.relabeling.suspects import _TaskFiles


@given(st.lists(st.text("x", max_size=30), min_size=1, max_size=20), st.integers(50, 100))
def test_tasks_are_cut_into_files_below_the_limit_in_order(tmp_path_factory, texts, limit):
    folder = str(tmp_path_factory.mktemp("suspects"))
    tasks = _TaskFiles(folder, limit)
    for text in texts:
        tasks.add(json.dumps({"t": text}))
    tasks.write()
    files = [storage.read_bytes(uri) for uri in storage.list_files(folder)]
    assert [task["t"] for data in files for task in json.loads(data)] == texts
    assert all(len(data) <= limit for data in files) and len(files) == tasks.num_files
    assert all(len(one) + len(other) > limit + 1 for one, other in pairwise(files))
