"""Checks of a whole set, which no single sample can show: other sides or order of ids, and images that occur twice."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dmlcsr.relations import Agreement
from dmlcsr.taxonomy import Taxonomy
from pipelines.config.base import Split
from pipelines.data.packing import MIRRORED, SampleProblem
from pipelines.ingest.duplicates import SeenImages, leaks, row_remarks

logger = logging.getLogger(__name__)
WHOLE_SET = "(all rows)"
"""Source of a remark about the whole set."""
OTHER_SIDES, OTHER_ORDER = "other_sides", "other_order"
"""Reasons of such remarks: left and right, or the ids, are those of another convention."""
BETWEEN_SPLITS = "images_in_two_splits"
"""Reason of a remark about the set if two splits have images in common."""
_NUM_ROWS = 200
"""Number of rows after which the order of the ids is judged, or all rows of a smaller set."""
_MAX_VIOLATED = 0.05
"""Fraction of violated relations above which ids seem to be in another order. Real labels violate less than 0.2 %."""


class SetChecks:
    """Collects facts about rows while their shards are packed, and makes remarks about the set.

    `taxonomy` is None if the faces have no labels.
    """

    def __init__(self, taxonomy: Taxonomy | None, mapping: str | None) -> None:
        self.taxonomy = taxonomy
        self.mapping = mapping or ""
        self.num_rows = self.num_mirrored = 0
        self.agreements: dict[str, Agreement] = {}
        self.order_remark: SampleProblem | None = None
        self.is_judged = False
        self.images = SeenImages()

    def summed(self, facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The facts about the rows of a shard: sums, and the ids of rows and their image hashes."""
        agreements: dict[str, Agreement] = {}
        for fact in facts:
            _add_agreements(agreements, fact["agreements"])
        hashed = [fact for fact in facts if fact["hash"] is not None]
        return {
            "num_rows": len(facts),
            "num_mirrored": sum(fact["is_mirrored"] for fact in facts),
            "agreements": agreements,
            "ids": [fact["id"] for fact in hashed],
            "hashes": [fact["hash"] for fact in hashed],
        }

    def add(self, split: Split, shard: str, facts: Mapping[str, Any]) -> None:
        """Adds the facts about the rows of a shard; warns as soon as enough rows show another order of ids."""
        self.num_rows += facts["num_rows"]
        self.num_mirrored += facts["num_mirrored"]
        self.images.add(split, shard, facts["hashes"])
        _add_agreements(self.agreements, facts["agreements"])
        if self.num_rows >= _NUM_ROWS and not self.is_judged:
            self._judge()

    def remarks(
        self, remarks: Callable[[], Iterator[SampleProblem]], read_facts: Callable[[str], Mapping[str, Any]]
    ) -> Iterator[SampleProblem]:
        """Yields the remarks about rows and set; one about the set replaces mirrored labels of most of its rows.

        `read_facts` returns the facts about a shard that were added.
        """
        if not self.is_judged:
            self._judge()
        groups = self.images.groups(lambda shard: read_facts(shard)["ids"])
        sentences = leaks(groups)
        yield from (SampleProblem(source=WHOLE_SET, reason=BETWEEN_SPLITS, detail=sentence) for sentence in sentences)
        for sentence in sentences:
            logger.warning("%s", sentence)
        if self.order_remark is not None:
            yield self.order_remark
        is_mirrored = self.taxonomy is not None and 2 * self.num_mirrored > self.num_rows
        if self.taxonomy is not None and is_mirrored:
            detail = (
                f"more than half of the rows have left and right the other way round than {self.taxonomy.name}: the "
                "set follows the other convention, so give a --taxonomy file whose pairs say so"
            )
            yield SampleProblem(source=WHOLE_SET, reason=OTHER_SIDES, detail=detail)
            logger.warning("%s", detail)
        yield from (remark for remark in remarks() if not (is_mirrored and remark["reason"] == MIRRORED))
        yield from row_remarks(groups)

    def _judge(self) -> None:
        self.is_judged = True
        own = self.agreements.get(self.mapping, Agreement(0, 0))
        if own.violated_fraction <= _MAX_VIOLATED:
            return
        best = min(self.agreements, key=lambda name: self.agreements[name].violated_fraction)
        detail = (
            f"{own.num_violated} of {own.num_checked} relations between parts of a face do not hold (such as brows "
            "above eyes), so the ids seem to mean other classes"
        )
        if best != self.mapping:
            violated = self.agreements[best].num_violated
            use = f"--mapping {best}" if best else "no --mapping"
            detail += f"; with {use} only {violated} do not hold, so use that"
        self.order_remark = SampleProblem(source=WHOLE_SET, reason=OTHER_ORDER, detail=detail)
        logger.warning("%s", detail)


def _add_agreements(sums: dict[str, Agreement], counts: Mapping[str, Sequence[int]]) -> None:
    for name, values in counts.items():
        sums[name] = sums.get(name, Agreement(0, 0)) + tuple(values)
