"""Generates the tables of ids at the end of docs/data.md from the taxonomies of the code.

python -m tests.class_tables
"""

from dmlcsr.taxonomy import TAXONOMIES, Taxonomy
from tests.support.commands import ROOT

PAGE = ROOT / "docs" / "data.md"
HEADING = "## Ids of the built-in taxonomies\n"
INTRODUCTION = """
Generated from the code by `python -m tests.class_tables`; a test compares them. `side` is that of the picture, as the
viewer sees it, and `pair` the id that a mirror image swaps with this one."""


def page(text: str) -> str:
    """The page with the tables of the present code."""
    tables = [_table(taxonomy) for taxonomy in TAXONOMIES.values()]
    return text.partition(HEADING)[0] + HEADING + "\n\n".join([INTRODUCTION, *tables]) + "\n"


def _table(taxonomy: Taxonomy) -> str:
    partners = dict(taxonomy.flip_pairs) | {b: a for a, b in taxonomy.flip_pairs}
    lines = [f"### {taxonomy.name}", "", "| id | class | color (RGB) | side | pair |", "|---|---|---|---|---|"]
    for part, (name, color) in enumerate(zip(taxonomy.classes, taxonomy.palette, strict=True)):
        shown = ", ".join(map(str, color))
        side, partner = taxonomy.side_of(part) or "", str(partners.get(part, ""))
        lines.append(f"| {part} | `{name}` | {shown} | {side} | {partner} |")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
