"""What each worker takes of an epoch, and of what is left when it goes on with other workers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.shares import WHOLE_EPOCH, Remaining, Share

NUM_ROWS, CHUNK_ROWS, WORLD_SIZE, STEP_ROWS = (
    st.integers(1, 600),
    st.integers(1, 40),
    st.integers(1, 6),
    st.integers(1, 50),
)


def make_share(num_rows, chunk_rows, world_size, step_rows, remaining=WHOLE_EPOCH):
    return Share(
        num_rows=num_rows, chunk_rows=chunk_rows, world_size=world_size, step_rows=step_rows, remaining=remaining
    )


def positions(parts):
    return [position for part in parts for position in range(part.start, part.stop)]


def taken(share, first=0, last=None):
    """The positions that each worker takes."""
    last = share.num_taken if last is None else last
    return [positions(share.taken(rank, first, last)) for rank in range(share.world_size)]


def flat(lists):
    return [value for values in lists for value in values]


def positions_of(remaining, num_rows):
    return positions(remaining.parts) + list(range(remaining.start, num_rows))


@given(NUM_ROWS, CHUNK_ROWS, WORLD_SIZE, STEP_ROWS)
@settings(max_examples=300, deadline=None)
def test_every_position_is_taken_once_but_for_an_incomplete_step_of_each_worker(rows, chunk, workers, step):
    share = make_share(rows, chunk, workers, step)
    found = taken(share)
    assert {len(values) for values in found} == {share.num_taken} and share.num_taken % step == 0
    assert len(set(flat(found))) == len(flat(found)) and set(flat(found)) <= set(range(rows))
    assert rows - len(flat(found)) < workers * (step + 1)


@given(NUM_ROWS, CHUNK_ROWS, WORLD_SIZE, STEP_ROWS, st.data())
@settings(max_examples=200, deadline=None)
def test_a_part_of_what_a_worker_takes_is_that_of_the_whole(rows, chunk, workers, step, draws):
    share = make_share(rows, chunk, workers, step)
    first = draws.draw(st.integers(0, share.num_taken))
    last = draws.draw(st.integers(first, share.num_taken))
    assert taken(share, first, last) == [values[first:last] for values in taken(share)]


@given(NUM_ROWS, CHUNK_ROWS, WORLD_SIZE, STEP_ROWS)
@settings(max_examples=200, deadline=None)
def test_no_part_crosses_the_end_of_a_chunk(rows, chunk, workers, step):
    share = make_share(rows, chunk, workers, step)
    for rank in range(workers):
        for part in share.taken(rank, 0, share.num_taken):
            assert part.start < part.stop and part.start // chunk == (part.stop - 1) // chunk


def test_workers_take_whole_chunks_in_turns_and_share_the_rest():
    share = make_share(85, 10, 3, 2)
    assert [list(share.taken(rank, 0, share.num_taken)) for rank in range(3)] == [
        [(0, 10), (30, 40), (60, 68)],
        [(10, 20), (40, 50), (68, 70), (70, 76)],
        [(21, 30), (50, 60), (76, 80), (80, 85)],
    ]


def test_the_rows_that_are_left_out_are_the_first_of_a_worker():
    share = make_share(64, 16, 1, 10)
    assert taken(share) == [list(range(4, 64))]


@given(NUM_ROWS, CHUNK_ROWS, st.lists(st.tuples(WORLD_SIZE, STEP_ROWS), min_size=2, max_size=4), st.data())
@settings(max_examples=500, deadline=None)
def test_an_epoch_goes_on_with_other_workers_without_a_row_twice_or_lost(rows, chunk, attempts, draws):
    remaining, seen, num_left_out = WHOLE_EPOCH, [], 0
    for workers, step in attempts:
        share = make_share(rows, chunk, workers, step, remaining)
        before = positions_of(remaining, rows)
        assert len(set(before)) == len(before)
        steps = draws.draw(st.integers(0, share.num_taken // step))
        found = flat(taken(share, 0, steps * step))
        remaining = share.left(steps * step)
        after = positions_of(remaining, rows)
        assert len(set(after)) == len(after) and set(after) <= set(before)
        assert set(found) <= set(before) - set(after)
        left_out = set(before) - set(after) - set(found)
        assert len(left_out) < workers * (step + 1)
        assert all(part.start // chunk == (part.stop - 1) // chunk for part in remaining.parts)
        seen += found
        num_left_out += len(left_out)
    assert len(set(seen)) == len(seen)
    assert len(seen) + num_left_out + len(positions_of(remaining, rows)) == rows


@given(NUM_ROWS, CHUNK_ROWS, WORLD_SIZE, STEP_ROWS)
@settings(max_examples=100, deadline=None)
def test_nothing_remains_after_the_last_step(rows, chunk, workers, step):
    share = make_share(rows, chunk, workers, step)
    assert positions_of(share.left(share.num_taken), rows) == []


def test_what_remains_does_not_grow_with_the_rows():
    share = make_share(10**9, 64, 512, 28)
    remaining = share.left(share.num_taken // 2 // 28 * 28)
    assert isinstance(remaining, Remaining) and len(remaining.parts) <= 2 * 512
