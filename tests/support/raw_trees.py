"""Trees of empty files, and what `ingest` lists in them."""

from pipelines.config.commands import IngestConfig
from pipelines.ingest import raw_files


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
    listing = raw_files.list_source(config)
    found = {split: sorted(sample.id for sample in samples) for split, samples in listing.samples.items()}
    return listing, found, sorted((row["source"].rsplit("/", 1)[-1], row["reason"]) for row in listing.rejected)
