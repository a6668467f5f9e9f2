"""Lists the samples of a raw data set, with their files and splits. Reads names and lists only, no pixels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import IngestConfig
from pipelines.data.packing import SampleProblem, printable
from pipelines.errors import UserError
from pipelines.ingest import splits
from pipelines.ingest.formats import FORMATS, IMAGE, RawFormat
from pipelines.ingest.label_files import LABEL

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class RawSample(NamedTuple):
    """One face before packing: the URI of its image, and (part, URI) of each file of its label."""

    id: str
    image: str
    label: tuple[tuple[str, str], ...]


class Listing(NamedTuple):
    """The samples of a source, and its rejected files: without a partner, with a duplicate id, or with a bad name."""

    samples: Mapping[Split, list[RawSample]]
    rejected: list[SampleProblem]


def list_images(uri: str) -> list[str]:
    """All image files at or below `uri`, sorted. Raises UserError if `uri` does not exist."""
    return [name for name in storage.list_files(uri) if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]


def list_source(config: IngestConfig) -> Listing:
    """Lists all samples of the source by split, in an order that only ids and seed decide.

    Raises UserError if the source holds no sample of the format; the message names the expected and the found files.
    """
    raw_format = FORMATS[config.format]
    files = storage.list_files(config.source)
    samples, rejected = _match(config.source, raw_format, files)
    if raw_format.has_split_lists:
        samples, rejected = _apply_lists(config.source, files, samples, rejected)
    if not samples:
        first = f"; the first problem: {rejected[0]['reason']}, {rejected[0]['detail']}" if rejected else ""
        raise UserError(
            f"{config.source} holds no {config.format} samples: expected {raw_format.expected}; "
            f"found {_found(config.source, files)}{first}"
        )
    if config.split_file is not None:
        split_of: Mapping[str, Split] = splits.from_file(config.split_file)
    else:
        split_of = raw_format.splits(config, [sample.id for sample in samples])
    # Rows are packed in shuffled order, so that neighbors in the source are not in the same row group.
    samples.sort(key=lambda sample: splits.rank(sample.id, config.seed))
    by_split: dict[Split, list[RawSample]] = {split: [] for split in SPLITS}
    for sample in samples:
        if sample.id in split_of:
            by_split[split_of[sample.id]].append(sample)
        else:
            rejected.append(
                SampleProblem(source=sample.image, reason="no_split", detail=f"no split names id {sample.id}")
            )
    return Listing(by_split, rejected)


def _found(root: str, files: Sequence[str]) -> str:
    """The kinds of files in a source and a few of their names, for the message about a wrong folder."""
    if not files:
        return "nothing"
    kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in files)
    some = printable(", ".join(_below(root, name).as_posix() for name in files[:3]))
    return f"{', '.join(f'{count} {kind}' for kind, count in kinds.most_common(4))} (such as {some})"


def _below(root: str, file: str) -> PurePosixPath:
    return PurePosixPath(file.removeprefix(root).lstrip("/"))


def _match(root: str, raw_format: RawFormat, files: Sequence[str]) -> tuple[list[RawSample], list[SampleProblem]]:
    """Groups the files by sample; returns the samples and the rejected files."""
    found: dict[str, dict[str, list[str]]] = {}
    rejected = []
    for file in files:
        path = _below(root, file)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if _is_bad(path):
            rejected.append(
                SampleProblem(source=file, reason="bad_name", detail="its name holds `..` or a control character")
            )
            continue
        located = raw_format.locate(path)
        if located is None:
            continue
        if located.role not in (IMAGE, *raw_format.parts):
            detail = f"{located.role!r} is not a part of a label; parts are {', '.join(raw_format.parts)}"
            rejected.append(SampleProblem(source=file, reason="unknown_part", detail=detail))
            continue
        found.setdefault(located.id, {}).setdefault(located.role, []).append(file)
    samples = []
    for name, roles in found.items():
        problem = _problem(raw_format, name, roles)
        if problem is None:
            label = tuple((role, roles[role][0]) for role in raw_format.parts if role in roles)
            samples.append(RawSample(name, roles[IMAGE][0], label))
        else:
            reason, detail, sources = problem
            rejected += [SampleProblem(source=file, reason=reason, detail=detail) for file in sources]
    return samples, rejected


def _is_bad(path: PurePosixPath) -> bool:
    """True if a name could lead out of a folder, or holds characters that no table or terminal can show."""
    return ".." in path.parts or not str(path).isprintable()


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


def _apply_lists(
    root: str, files: Sequence[str], samples: list[RawSample], rejected: list[SampleProblem]
) -> tuple[list[RawSample], list[SampleProblem]]:
    """Replaces the samples of each split that has a file `<split>_list.txt` by those that its lines name."""
    for split in SPLITS:
        uri = storage.join(root, f"{split}_list.txt")
        if uri in files:
            folder = storage.join(root, split) + "/"
            listed, bad = _read_list(uri, folder, split)
            samples = [sample for sample in samples if not sample.image.startswith(folder)] + listed
            rejected = [finding for finding in rejected if not finding["source"].startswith(folder)] + bad
    return samples, rejected


def _read_list(uri: str, folder: str, split: Split) -> tuple[list[RawSample], list[SampleProblem]]:
    """Reads lines `images/x.jpg labels/x.png`. A pair that occurs twice is one sample."""
    samples: dict[str, RawSample] = {}
    rejected = []
    for number, line in enumerate(storage.read_bytes(uri).decode(errors="replace").splitlines(), start=1):
        names = [PurePosixPath(name) for name in line.split()]
        if not names:
            continue
        if len(names) != 2 or any(_is_bad(name) for name in names):
            detail = f"expected `images/x.jpg labels/x.png`, got {line[:80]!r}"
            rejected.append(SampleProblem(source=f"{uri}:{number}", reason="bad_line", detail=detail))
            continue
        name = f"{split}/{names[0].with_suffix('').as_posix().removeprefix('images/')}"
        sample = RawSample(name, f"{folder}{names[0]}", ((LABEL, f"{folder}{names[1]}"),))
        if samples.setdefault(name, sample) != sample:
            detail = f"id {name} was listed before with other files"
            rejected.append(SampleProblem(source=f"{uri}:{number}", reason="duplicate_id", detail=detail))
    return list(samples.values()), rejected
