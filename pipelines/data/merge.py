"""`merge` joins packed data sets of one taxonomy: each file of them becomes one file of the new data set."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, TypedDict

from dmlcsr.taxonomy import Taxonomy, match
from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import MergeConfig
from pipelines.data import dataset, packing, row_groups
from pipelines.data.dataset import DataFile, Manifest, Row
from pipelines.data.packing import SampleProblem, Shard
from pipelines.data.row_groups import SplitFiles
from pipelines.data.versions import QUARANTINED, RULE
from pipelines.errors import UserError
from pipelines.run import claims
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session

logger = logging.getLogger(__name__)
MAY_DIFFER = ("base",)
"""Options that change no row and may differ when the command is repeated."""


class MergeResult(TypedDict):
    """The result of `merge`."""

    out: str
    num_rows: dict[Split, int]


def run(config: MergeConfig) -> MergeResult:
    """Joins the data sets, or returns the result of an earlier run with them."""
    manifests = dataset.read_manifests(config.data, config.base)
    digests = json.dumps([manifest.digest for manifest in manifests])
    inputs = {"data": hashlib.sha256(digests.encode()).hexdigest()}
    claims.find_claim("merge", config, config.out, inputs, MAY_DIFFER)
    if not dataset.is_complete(config.out):
        taxonomy = common_taxonomy(config.data, manifests)
        with claims.claim_output("merge", config, config.out, inputs, MAY_DIFFER):
            if not dataset.is_complete(config.out):
                sources = zip(config.data, manifests, strict=True)
                with ray_session(Needs(cpus=1), [uri for data, manifest in sources for uri in manifest.inputs(data)]):
                    build(config, manifests, taxonomy)
    return {"out": config.out, "num_rows": dataset.read_manifest(config.out).num_rows()}


def summary(result: MergeResult) -> str:
    counts = ", ".join(f"{rows} {split}" for split, rows in result["num_rows"].items())
    return f"merged {counts} rows into {result['out']}"


def common_taxonomy(uris: Sequence[str], manifests: Sequence[Manifest]) -> Taxonomy | None:
    """The taxonomy of all data sets, None if no row has a label. Of several it is the one with the fewest known sides.

    Raises UserError if there are no two data sets, if classes or sides differ, or if only some data sets have labels.
    """
    if len(uris) < 2 or len(set(uris)) < len(uris):
        raise UserError(f"--data must name two or more different data sets, not {','.join(uris)}")
    taxonomies = {uri: manifest.label_taxonomy for uri, manifest in zip(uris, manifests, strict=True)}
    for (first, a), (second, b) in combinations(taxonomies.items(), 2):
        if a is None or b is None:
            if a is not b:
                some = first if a is None else second
                raise UserError(f"the faces of {some} have no labels, others have; label them with `relabel` first")
            continue
        found = match(a, b)
        if found == "sides unknown":
            logger.warning(
                "%s or %s does not say which part of a pair is on the viewer's left; if left and right are the other "
                "way round in the other one, the merged labels contradict each other",
                first,
                second,
            )
        elif found != "same":
            what = "classes" if found == "classes differ" else "sides of left and right"
            raise UserError(
                f"{first} ({a.name}) and {second} ({b.name}) have different {what}; ingest one of them again with "
                "--remap-to"
            )
    known = [taxonomy for taxonomy in taxonomies.values() if taxonomy is not None]
    return min(known, key=lambda taxonomy: len(taxonomy.sides), default=None)


def prefixes(uris: Sequence[str]) -> list[str]:
    """The last part of each URI, as `lapa`; a name that was used before gets a number, as `lapa-2`."""
    return storage.distinct_names([uri.rpartition("/")[2] for uri in uris])


def make_shards(manifests: Sequence[Manifest]) -> list[Shard]:
    """A shard `[data set, file of the split, sha256]` for each file."""
    shards = []
    for split in SPLITS:
        work = [
            [number, index, file.sha256]
            for number, manifest in enumerate(manifests)
            for index, file in enumerate(manifest.splits.get(split, ()))
        ]
        shards += [Shard(split, number, item) for number, item in enumerate(work)]
    return shards


def build(config: MergeConfig, manifests: Sequence[Manifest], taxonomy: Taxonomy | None) -> None:
    """Writes the files, joins the tables of problems, and commits the new data set."""
    names = prefixes(config.data)
    size = min(manifest.rows_per_group for manifest in manifests)
    sources = {
        split: [row_groups.open_split(*source, split) for source in zip(config.data, manifests, strict=True)]
        for split in SPLITS
    }

    def write(shard: Shard) -> dict[str, Any]:
        number, index, _ = shard.work
        rows = usable_rows(sources[shard.split][number], index, names[number])
        file = dataset.write_file(config.out, shard.name, rows, size)
        return {"split": shard.split, "file": file and file.model_dump()}

    files: Mapping[Split, list[DataFile]] = {split: [] for split in SPLITS}
    for answer in packing.map_shards(config.out, make_shards(manifests), write, "merged"):
        if answer["file"]:
            files[answer["split"]].append(DataFile.model_validate(answer["file"]))
    remarks = _problems(config.data, names, packing.REMARKS)
    packing.write_problems(config.out, packing.REMARKS, remarks)
    lineage = {
        "command": "merge",
        "data": config.data,
        "data_digests": [manifest.digest for manifest in manifests],
        "prefixes": names,
        "origins": sorted({origin for manifest in manifests for origin in manifest.origins}),
    }
    packing.write_manifest(
        config.out,
        taxonomy,
        files,
        _problems(config.data, names, packing.QUARANTINE),
        lineage,
        rows_per_group=size,
        remarks=packing.count_reasons(remarks),
    )


def usable_rows(source: SplitFiles, file: int, prefix: str) -> Iterator[Row]:
    """Yields the rows of a file in order, without the columns of `relabel` and the rows that it could not use."""
    for row in row_groups.rows_of_file(source, file, [*dataset.SCHEMA.names, RULE]):
        if row.pop(RULE, None) != QUARANTINED:
            yield Row(**row | {"id": f"{prefix}/{row['id']}"})  # type: ignore[typeddict-item]


def _problems(uris: Sequence[str], names: Sequence[str], table: str) -> list[SampleProblem]:
    """The problems of all data sets. A source that is no file is an id, and gets the prefix of its data set."""
    joined = []
    for uri, name in zip(uris, names, strict=True):
        for problem in packing.read_problems(uri, table):
            is_file = problem["source"].startswith("/") or "://" in problem["source"]
            source = problem["source"] if is_file else f"{name}/{problem['source']}"
            joined.append(SampleProblem(source=source, reason=problem["reason"], detail=problem["detail"]))
    return joined
