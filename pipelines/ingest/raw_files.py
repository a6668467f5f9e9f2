"""Groups the files of raw data sets into samples. Reads names and lists only, no pixels."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pipelines import storage
from pipelines.config.commands import IngestConfig
from pipelines.data.packing import SampleProblem
from pipelines.ingest import pairing, split_lists
from pipelines.ingest.formats import EITHER, FORMATS, IMAGE, IMAGE_SUFFIXES, RawFormat
from pipelines.ingest.label_files import LABEL
from pipelines.ingest.names import BAD_NAME, Name


class RawSample(NamedTuple):
    """One face before packing: the URI of its image, and (part, URI) of each file of its label."""

    id: str
    image: str
    label: tuple[tuple[str, str], ...]


class Unclear(NamedTuple):
    """A file without a partner: a problem if its folder holds images and labels, and else an ignored file."""

    folder: str
    problem: SampleProblem


class Files(NamedTuple):
    """The files of one source, or of a bucket of it, by what becomes of them."""

    samples: list[RawSample]
    rejected: list[SampleProblem]
    ignored: list[str]
    unclear: list[Unclear]
    mixed_folders: set[str]
    """The folders that are known to hold images and labels."""


def list_images(uri: str) -> list[str]:
    """All image files at or below `uri`, sorted. Raises UserError if `uri` does not exist."""
    return [name for name in storage.list_files(uri) if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]


def group_files(config: IngestConfig, root: str, names: Sequence[Name], lists: Sequence[str]) -> Files:
    """Groups the files of a bucket, all of one source. Lists decide in a source that has some: it is in one bucket."""
    found = _match(root, FORMATS[config.format], names, pairing.suffixes_of(config.label_suffix))
    if not lists or not names:
        return found
    rejected = [unclear.problem for unclear in found.unclear if unclear.folder in found.mixed_folders]
    ignored = [unclear.problem["source"] for unclear in found.unclear if unclear.folder not in found.mixed_folders]
    known = found._replace(rejected=found.rejected + rejected, ignored=found.ignored + ignored, unclear=[])
    return _apply_lists(root, [storage.join(root, name.file) for name in names], known, lists)


def _match(root: str, raw_format: RawFormat, names: Sequence[Name], suffixes: tuple[str, ...]) -> Files:
    """Groups the files by sample."""
    found: dict[str, dict[str, list[str]]] = {}
    result = Files([], [], [], [], set())
    for each in names:
        file = storage.join(root, each.file)
        if each.located is None:
            result.ignored.append(file)
        elif each.located.role == BAD_NAME:
            detail = "its name holds `..` or a control character"
            result.rejected.append(SampleProblem(source=file, reason="bad_name", detail=detail))
        elif each.located.role not in (IMAGE, EITHER, *raw_format.parts):
            detail = f"{each.located.role!r} is not a part of a label; parts are {', '.join(raw_format.parts)}"
            result.rejected.append(SampleProblem(source=file, reason="unknown_part", detail=detail))
        else:
            found.setdefault(each.located.id, {}).setdefault(each.located.role, []).append(file)
    groups = list(found.items())
    if raw_format.parts == (LABEL,):
        groups, folders = pairing.pair(found, suffixes)
        result.mixed_folders.update(folders)
    for name, roles in groups:
        is_unclear = EITHER in roles
        if is_unclear:
            roles = {pairing.role_in_mixed_folder(name, suffixes): roles[EITHER]}
        problem = _problem(raw_format, name, roles)
        if problem is None:
            label = tuple((role, roles[role][0]) for role in raw_format.parts if role in roles)
            result.samples.append(RawSample(name, roles[IMAGE][0], label))
            continue
        reason, detail, sources = problem
        problems = [SampleProblem(source=file, reason=reason, detail=detail) for file in sources]
        if is_unclear:
            result.unclear.extend(Unclear(pairing.folder_of(name), each) for each in problems)
        else:
            result.rejected.extend(problems)
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


def _apply_lists(root: str, files: Sequence[str], found: Files, uris: Sequence[str]) -> Files:
    """Replaces the samples of each split that has a file `<split>_list.txt` by those that its lines name."""
    lists = split_lists.read_lists(root, files, uris)
    limited = {listed.folder for listed in lists}

    def is_limited(file: str) -> bool:
        return split_lists.folder_of(root, file) in limited

    listed = [RawSample(pair.id, pair.image, ((LABEL, pair.label),)) for each in lists for pair in each.pairs]
    dropped = [file for sample in found.samples if is_limited(sample.image) for file in _files_of(sample)]
    dropped += [problem["source"] for problem in found.rejected if is_limited(problem["source"])]
    used = {file for sample in listed for file in _files_of(sample)} | {uri for each in lists for uri in each.uris}
    return found._replace(
        samples=[sample for sample in found.samples if not is_limited(sample.image)] + listed,
        rejected=[problem for problem in found.rejected if not is_limited(problem["source"])]
        + [problem for each in lists for problem in each.rejected],
        ignored=[file for file in (*found.ignored, *dropped) if file not in used],
    )


def _files_of(sample: RawSample) -> list[str]:
    return [sample.image, *(file for _, file in sample.label)]
