"""Streaming: what training needs in memory does not depend on the number of rows."""

import pytest

from tests.benchmarks.memory import compare


@pytest.mark.faults
def test_ten_times_the_rows_need_no_more_memory(s3):
    """The 4,320 more rows are 71 MB, decoded, in each of two epochs: a process that kept them would show."""
    peaks = compare(s3)
    small, large = peaks["small"], peaks["large"]
    for role in ("driver", "train worker", "decoding", "object store"):
        assert large[role] <= 1.1 * small[role] + 20, (role, small, large)
