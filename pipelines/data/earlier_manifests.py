"""Reads manifests of format versions 1 (release 0.1) to 3. Versions 1 and 2 named their taxonomy; 3 holds it."""

from collections.abc import Mapping
from typing import Any

from dmlcsr.taxonomy import get_taxonomy
from pipelines import storage
from pipelines.errors import UserError


def upgraded(dataset: str, uri: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of an earlier manifest as the present version would hold it.

    Raises UserError if it names no built-in taxonomy, or if its labels have left and right the wrong way round.
    """
    values = dict(content) | {"format_version": 4}
    if content["format_version"] == 3:
        return values
    refuse_wrong_sides(dataset, content)
    try:
        taxonomy = get_taxonomy(str(values.get("taxonomy")))
    except ValueError as error:
        raise UserError(f"{uri}: {error}") from error
    if values.pop("classes", None) != list(taxonomy.classes):
        raise UserError(f"{uri} lists other classes than the taxonomy {taxonomy.name!r}")
    values["taxonomy"] = taxonomy.to_dict()
    # Under the earlier sides of CelebAMask-HQ nearly every row was counted as mirrored.
    values.pop("num_mirrored", None)
    if isinstance(made := values.get("relabelled"), dict) and "num_changed" in made:
        values["relabelled"] = {"num_changed_rows": made["num_changed"]} | made  # its name in release 0.1
        del values["relabelled"]["num_changed"]
    return values


def refuse_wrong_sides(dataset: str, content: Mapping[str, Any]) -> None:
    """Raises UserError for what was made while `l_` of CelebAMask-HQ was thought to be the viewer's left.

    These are procedural faces and translations of celebamask_hq to lapa, and relabelled versions of both.
    """
    lineage = content.get("lineage")
    if not isinstance(lineage, Mapping):
        return
    if lineage.get("command") == "synth":
        raise UserError(
            f"{dataset} holds procedural faces of release 0.1, whose left and right ids are the wrong way round; make "
            "them again with `synth`"
        )
    if lineage.get("remap_to") == "lapa" and "celebamask_hq" in (lineage.get("format"), lineage.get("taxonomy")):
        raise UserError(
            f"{dataset} was translated from celebamask_hq to lapa by release 0.1, which took left for right; ingest "
            "the source again"
        )
    parent = lineage.get("data")
    if lineage.get("command") == "relabel" and isinstance(parent, str):
        manifest = storage.join(parent, "dataset.json")
        found = storage.find_json(manifest) or {}
        if found.get("format_version") in (1, 2):
            refuse_wrong_sides(parent, found)
