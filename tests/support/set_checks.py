"""Checks of a whole set from the facts about rows, without packing."""

import json


def remarks_of(checks, packed, remarks):
    """The remarks of the checks, given (split, facts about the rows) of each shard and the remarks about rows."""
    told = {}
    for number, (split, facts) in enumerate(packed):
        shard = f"{split}/part-{number:05d}"
        told[shard] = json.loads(json.dumps(checks.summed(facts)))  # as receipts hold them
        checks.add(split, shard, told[shard])
    return list(checks.remarks(lambda: iter(remarks), told.__getitem__))
