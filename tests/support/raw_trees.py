"""Trees of empty files, and what `ingest` lists in them."""

import tempfile
from typing import NamedTuple

from pipelines.config.base import SPLITS
from pipelines.config.commands import IngestConfig
from pipelines.ingest.listing import list_source


class Whole(NamedTuple):
    """A listing with all samples, by split, and all problems."""

    samples: dict
    rejected: list
    ignored: dict


def whole(listing):
    """Reads all that a listing holds on storage."""
    counts = listing.samples.num_rows()
    samples = {split: listing.samples.read(split, 0, counts[split]) for split in SPLITS}
    problems = list(listing.problems())
    assert len(problems) == listing.num_rejected
    return Whole(samples, problems, listing.ignored.counts())


def list_all(config):
    """The samples of the sources, what is rejected, and what is ignored."""
    with tempfile.TemporaryDirectory() as folder:
        return whole(list_source(config, folder))


def tree(root, *names):
    """Makes empty files below `root`; returns `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def listed(source, kind, **more):
    """The listing of a source, its ids by split, and (file, reason) of its rejected files, sorted."""
    config = IngestConfig(format=kind, source=str(source), out="/out", **more)
    listing = list_all(config)
    found = {split: sorted(sample.id for sample in samples) for split, samples in listing.samples.items()}
    return listing, found, sorted((row["source"].rsplit("/", 1)[-1], row["reason"]) for row in listing.rejected)
