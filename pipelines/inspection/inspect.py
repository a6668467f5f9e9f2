"""`inspect` counts what a data set holds and writes one page about it, with pictures."""

from collections import Counter
from typing import TypedDict

from pipelines import storage
from pipelines.config.base import Split
from pipelines.config.commands import InspectConfig
from pipelines.data import dataset, packing
from pipelines.data.row_groups import RowRange
from pipelines.errors import UserError
from pipelines.inspection import scan, sections
from pipelines.inspection.scan import Pick
from pipelines.report import page
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session

NUM_RANDOM = 24
"""Number of random rows that are drawn."""


class ClassCounts(TypedDict):
    """Pixels of a class, and labels that have it."""

    pixels: int
    images: int


class InspectResult(TypedDict):
    """The result of `inspect`."""

    out: str
    num_rows: dict[Split, int]
    classes: dict[str, ClassCounts]
    """Counts by class; empty if no row has a label."""
    remarks: dict[str, int]
    """Remarks of `ingest`, and rows whose label cannot be read, by reason."""


def run(config: InspectConfig) -> InspectResult:
    """Counts all rows and writes the page. Raises UserError if `config.data` is not a data set."""
    storage.check_writable(config.out)
    manifest = dataset.read_manifest(config.data, config.base)
    taxonomy, sources = manifest.label_taxonomy, scan.open_sources(config.data, manifest)
    if not sources:
        raise UserError(f"{config.data} has no rows: nothing to inspect")
    with ray_session(Needs(cpus=1), manifest.inputs(config.data)):
        counts = scan.count_rows(sources)
        drawn = scan.draw(sources, scan.random_picks(sources, NUM_RANDOM, config.seed))
        places = [(row.split, RowRange(row.file, row.group, row.row, row.row + 1)) for row in counts.unusual]
        unusual = scan.draw(sources, [Pick(*place) for place in places])
    remarks = dict(sorted((Counter(manifest.remarks) + counts.problems).items()))
    found = {
        "Remarks": packing.read_problems(config.data, packing.REMARKS) + counts.examples,
        "Rejected samples": packing.read_problems(config.data, packing.QUARANTINE),
    }
    content = [
        ("Rows", sections.rows(manifest, counts)),
        ("Classes", sections.classes(taxonomy, counts)),
        ("Where classes lie", sections.maps(taxonomy, counts)),
        ("Remarks and rejected samples", sections.problems(remarks, manifest.reasons, found)),
        ("Random rows", sections.random_rows(taxonomy, drawn, config.seed)),
        ("Unusual labels", sections.unusual(taxonomy, unusual, counts)),
    ]
    name = config.data.rstrip("/").rpartition("/")[2]
    storage.write_bytes(config.out, page.page(f"Data set {name}", config.data, content))
    by_class = zip(taxonomy.classes if taxonomy else (), counts.pixels.tolist(), counts.images.tolist(), strict=False)
    return {
        "out": config.out,
        "num_rows": manifest.num_rows(),
        "classes": {part: {"pixels": pixels, "images": images} for part, pixels, images in by_class},
        "remarks": remarks,
    }


def summary(result: InspectResult) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in result["num_rows"].items())
    lines = [f"{counts} rows; wrote {result['out']}"]
    if absent := [name for name, found in result["classes"].items() if not found["images"]]:
        lines.append(f"no label has the classes {', '.join(absent)}")
    lines += [f"  {count} {reason}" for reason, count in result["remarks"].items()]
    return "\n".join(lines)
