"""Decides how the labels of a source become ids of the data set: by taxonomy, mapping, colors and remap."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dmlcsr.image_files import BadSampleError
from dmlcsr.relations import mapping_lut
from dmlcsr.taxonomy import IGNORE, Taxonomy
from dmlcsr.taxonomy import Mapping as SourceMapping
from pipelines.config.commands import IngestConfig
from pipelines.config.taxonomies import read_colors, read_remap, read_taxonomy
from pipelines.errors import UserError
from pipelines.ingest import label_files
from pipelines.ingest.formats import FORMATS
from pipelines.ingest.label_files import LABEL, Label

Lut = npt.NDArray[np.uint8]
"""(256,) lookup table of ids."""


class LabelReader(NamedTuple):
    """Rules for labels: `compose` makes ids from files, in the order of the source.

    They become ids of `taxonomy` by `source_lut`, and after the checks those of `target` by `lut`. None as a table
    leaves the ids as they are.
    """

    taxonomy: Taxonomy
    compose: Callable[[Mapping[str, bytes]], Label]
    source_lut: Lut | None
    target: Taxonomy
    lut: Lut | None

    def translated(self, label: Label) -> Label:
        """The label in ids of the taxonomy. Raises BadSampleError for an id that the mapping does not list."""
        if self.source_lut is None:
            return label
        translated = self.source_lut[label]
        wrong = np.unique(label[(translated == IGNORE) & (label != IGNORE)])
        if len(wrong):
            raise BadSampleError("unknown_id", f"ids {wrong.tolist()} are not in the mapping")
        return translated


def read_rules(config: IngestConfig, has_labels: bool) -> LabelReader | None:
    """The rules for labels; None if the faces have no labels. Then options about labels raise UserError."""
    if has_labels:
        return label_reader(config)
    for name in ("taxonomy", "mapping", "colors", "remap_to"):
        if getattr(config, name) is not None:
            other = ", or name their column with --columns label=NAME" if config.format == "parquet" else ""
            raise UserError(
                f"--{name.replace('_', '-')}: the faces of {', '.join(config.source)} have no labels; omit it{other}"
            )
    return None


def label_reader(config: IngestConfig) -> LabelReader:
    """Makes the rules for labels of the configured format.

    They are sent to the tasks, which do not read FORMATS. Raises UserError if options contradict each other, or if
    a file that they name cannot be read.
    """
    source = _source_taxonomy(config)
    mapping = _source_mapping(config, source)
    compose = FORMATS[config.format].compose
    if mapping is not None and mapping.colors:
        if FORMATS[config.format].parts != (LABEL,):
            raise UserError(f"--format {config.format} has no label files of colors; omit --mapping and --colors")
        compose = partial(_of_colors, mapping.colors)
    source_lut = mapping_lut(mapping) if mapping is not None and mapping.ids else None
    target, lut = read_remap(config.remap_to, source) if config.remap_to else (source, None)
    return LabelReader(source, partial(compose, config), source_lut, target, lut)


def _of_colors(colors: label_files.Colors, config: IngestConfig, files: Mapping[str, bytes]) -> Label:
    return label_files.single(files, colors)


def _source_taxonomy(config: IngestConfig) -> Taxonomy:
    """The taxonomy that the user names, or that of the format. A file may state other sides than the format has."""
    own = FORMATS[config.format].taxonomy
    if config.taxonomy is None:
        if own is None:
            raise UserError(f"--taxonomy is required for --format {config.format}: it says what the label ids mean")
        return own
    given = read_taxonomy(config.taxonomy)
    if own is not None and given.classes != own.classes:
        raise UserError(
            f"--taxonomy {config.taxonomy}: --format {config.format} has the classes of {own.name}, not those of "
            f"{given.name}; omit it"
        )
    return given


def _source_mapping(config: IngestConfig, taxonomy: Taxonomy) -> SourceMapping | None:
    if config.colors is not None and config.mapping is not None:
        raise UserError("--colors and --mapping exclude each other: both say what the source's values mean")
    if config.colors is not None:
        return read_colors(config.colors, taxonomy)
    if config.mapping is None:
        return None
    try:
        mapping = taxonomy.mapping(config.mapping)
    except ValueError as error:
        raise UserError(f"--mapping: {error}") from error
    if mapping.classes:
        raise UserError(f"--mapping {config.mapping} translates classes of another taxonomy; use --remap-to for it")
    return mapping
