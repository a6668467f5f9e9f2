"""Lists the samples of raw data sets, with their files and splits. Reads names and lists only, no pixels."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import IngestConfig
from pipelines.data.packing import SampleProblem, printable
from pipelines.errors import UserError
from pipelines.ingest import pairing, split_lists, splits
from pipelines.ingest.formats import EITHER, FORMATS, IMAGE, IMAGE_SUFFIXES, RawFormat
from pipelines.ingest.kinds import by_kind, in_words
from pipelines.ingest.label_files import LABEL
from pipelines.ingest.split_lists import is_bad

logger = logging.getLogger(__name__)


class RawSample(NamedTuple):
    """One face before packing: the URI of its image, and (part, URI) of each file of its label."""

    id: str
    image: str
    label: tuple[tuple[str, str], ...]


class Listing(NamedTuple):
    """The samples of the sources, and their rejected files: without a partner, with a duplicate id, or with a bad name.

    `ignored` counts all other files by suffix, without the lists that were read.
    """

    samples: Mapping[Split, list[RawSample]]
    rejected: list[SampleProblem]
    ignored: Mapping[str, int] = {}


class Files(NamedTuple):
    """The files of one source by what becomes of them."""

    samples: list[RawSample]
    rejected: list[SampleProblem]
    ignored: list[str]


def list_images(uri: str) -> list[str]:
    """All image files at or below `uri`, sorted. Raises UserError if `uri` does not exist."""
    return [name for name in storage.list_files(uri) if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]


def list_source(config: IngestConfig) -> Listing:
    """Lists all samples of the sources by split, in an order that only ids and seed decide.

    If there are several sources, ids begin with the name of theirs. Raises UserError if a source holds no sample of the
    format; the message names the expected and the found files.
    """
    by_split: dict[Split, list[RawSample]] = {split: [] for split in SPLITS}
    rejected: list[SampleProblem] = []
    ignored: list[str] = []
    named = None if config.split_file is None else splits.from_file(config.split_file)
    for prefix, source in zip(id_prefixes(config.source), config.source, strict=True):
        found = _list_files(config, source)
        rejected += found.rejected
        ignored += found.ignored
        split_of = _split_of(config, source, prefix, found.samples, named)
        for sample in found.samples:
            if sample.id in split_of:
                by_split[split_of[sample.id]].append(sample._replace(id=prefix + sample.id))
            else:
                detail = f"no split names id {prefix}{sample.id}"
                rejected.append(SampleProblem(source=sample.image, reason="no_split", detail=detail))
    # Rows are packed in shuffled order, so that neighbors in the source are not in the same row group.
    for samples in by_split.values():
        samples.sort(key=lambda sample: splits.rank(sample.id, config.seed))
    kinds = by_kind(file for file in ignored if file != config.split_file)
    if kinds:
        shown = (f"{len(files)} {kind} (such as {printable(files[0])})" for kind, files in kinds.items())
        logger.info("ignored files: %s", ", ".join(shown))
    return Listing(by_split, rejected, {kind: len(files) for kind, files in kinds.items()})


def id_prefixes(sources: Sequence[str]) -> list[str]:
    """The start of all ids of each source: its base name, numbered if an earlier source has the same; one has none."""
    if len(sources) == 1:
        return [""]
    names = [printable(splits.composed(PurePosixPath(source).name or "root")) for source in sources]
    return [f"{name}/" for name in storage.distinct_names(names)]


def _split_of(
    config: IngestConfig,
    source: str,
    prefix: str,
    samples: Sequence[RawSample],
    named: Mapping[str, Split] | None,
) -> Mapping[str, Split]:
    """The split of each id of a source. A split file may name ids with or without the prefix of the source."""
    ids = [sample.id for sample in samples]
    if named is None:
        return FORMATS[config.format].splits(config, source, ids)
    full = {name: prefix + name if prefix + name in named else name for name in ids}
    return {name: named[full[name]] for name in ids if full[name] in named}


def _list_files(config: IngestConfig, source: str) -> Files:
    """Groups the files of a source. Raises UserError if it holds no sample."""
    raw_format = FORMATS[config.format]
    files = storage.list_files(source)
    found = _match(source, raw_format, files, config.label_suffix)
    if raw_format.has_split_lists:
        found = _apply_lists(source, files, found)
    if not found.samples:
        problem = found.rejected[0] if found.rejected else None
        first = f"; the first problem: {problem['reason']}, {problem['detail']}" if problem else ""
        raise UserError(
            f"{source} holds no {config.format} samples: expected {raw_format.expected}; "
            f"found {in_words([file.removeprefix(source).lstrip('/') for file in files])}{first}"
        )
    if config.split_file is not None:
        return found
    lists = {storage.join(source, name) for name in raw_format.list_files}
    return found._replace(ignored=[file for file in found.ignored if file not in lists])


def _below(root: str, file: str) -> PurePosixPath:
    return PurePosixPath(file.removeprefix(root).lstrip("/"))


def _match(root: str, raw_format: RawFormat, files: Sequence[str], label_suffix: str | None) -> Files:
    """Groups the files by sample."""
    found: dict[str, dict[str, list[str]]] = {}
    result = Files([], [], [])
    for file in files:
        path = _below(root, file)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            result.ignored.append(file)
            continue
        if is_bad(path):
            detail = "its name holds `..` or a control character"
            result.rejected.append(SampleProblem(source=file, reason="bad_name", detail=detail))
            continue
        located = raw_format.locate(PurePosixPath(splits.composed(str(path))))
        if located is None:
            result.ignored.append(file)
            continue
        if located.role not in (IMAGE, EITHER, *raw_format.parts):
            detail = f"{located.role!r} is not a part of a label; parts are {', '.join(raw_format.parts)}"
            result.rejected.append(SampleProblem(source=file, reason="unknown_part", detail=detail))
            continue
        found.setdefault(located.id, {}).setdefault(located.role, []).append(file)
    groups = pairing.pair(found, label_suffix) if raw_format.parts == (LABEL,) else list(found.items())
    for name, roles in groups:
        if EITHER in roles:
            result.ignored.extend(roles[EITHER])
            continue
        problem = _problem(raw_format, name, roles)
        if problem is None:
            label = tuple((role, roles[role][0]) for role in raw_format.parts if role in roles)
            result.samples.append(RawSample(name, roles[IMAGE][0], label))
        else:
            reason, detail, sources = problem
            result.rejected.extend(SampleProblem(source=file, reason=reason, detail=detail) for file in sources)
    return result


def _problem(
    raw_format: RawFormat, name: str, roles: Mapping[str, Sequence[str]]
) -> tuple[str, str, Sequence[str]] | None:
    """The reason why the files of an id make no sample, with details and the files to list; None if they make one."""
    twice = [file for files in roles.values() if len(files) > 1 for file in files]
    if twice:
        return "duplicate_id", f"several files have id {name}", twice
    first = [next(iter(roles.values()))[0]]
    if IMAGE not in roles:
        return "label_without_image", f"no partner for id {name}", first
    missing = [part for part in raw_format.parts if part not in roles]
    if missing and len(missing) == len(raw_format.parts):
        return "image_without_label", f"no partner for id {name}", first
    if missing and raw_format.all_parts_required:
        return "incomplete_label", f"id {name} has no {', '.join(missing)}", roles[IMAGE]
    return None


def _apply_lists(root: str, files: Sequence[str], found: Files) -> Files:
    """Replaces the samples of each split that has a file `<split>_list.txt` by those that its lines name."""
    lists = split_lists.read_lists(root, files)
    limited = {listed.folder for listed in lists}

    def is_limited(file: str) -> bool:
        return split_lists.folder_of(root, file) in limited

    listed = [RawSample(pair.id, pair.image, ((LABEL, pair.label),)) for each in lists for pair in each.pairs]
    dropped = [file for sample in found.samples if is_limited(sample.image) for file in _files_of(sample)]
    dropped += [problem["source"] for problem in found.rejected if is_limited(problem["source"])]
    used = {file for sample in listed for file in _files_of(sample)} | {uri for each in lists for uri in each.uris}
    return Files(
        [sample for sample in found.samples if not is_limited(sample.image)] + listed,
        [problem for problem in found.rejected if not is_limited(problem["source"])]
        + [problem for each in lists for problem in each.rejected],
        [file for file in (*found.ignored, *dropped) if file not in used],
    )


def _files_of(sample: RawSample) -> list[str]:
    return [sample.image, *(file for _, file in sample.label)]
