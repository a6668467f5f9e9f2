"""Generates docs/reference.md from the commands' own configuration.

python -m tests.reference > docs/reference.md
"""

import ray_job
from pipelines.config import options

INTRODUCTION = """# Commands and their options

Generated from the code by `python -m tests.reference > docs/reference.md`; a test compares them.

`python ray_job.py COMMAND [--config FILE.yaml] [--preset NAME] [--section.key VALUE ...] [--json] [--verbose]`

YAML keys and flags have the same dotted names. Values are taken from the defaults below, then `--preset`, then
`--config`, then flags. `--print-config` prints the result as YAML, which is itself a valid `--config`. `--json` makes
the result the last line on standard output, `--verbose` shows all that Ray's processes print. `--log-level debug` tells
each wait before it begins; `warning` tells only what may be wrong."""

PLAN = f"""## plan

{ray_job.PLAN_HELP}

`python ray_job.py plan COMMAND [--config FILE.yaml] [--preset NAME] [--section.key VALUE ...] [--json] [--verbose]`

It stands before another command and takes that command's options, and one of its own, `--images-per-second FLOAT`:
{options.RATE_HELP}."""


def reference() -> str:
    """The whole page."""
    return "\n\n".join([INTRODUCTION, *(_command(name) for name in ray_job.COMMANDS), PLAN]) + "\n"


def _command(name: str) -> str:
    command = ray_job.COMMANDS[name]
    lines = [f"## {name}", "", command.config.__doc__ or "", ""]
    if command.with_presets:
        lines += [f"Presets: {', '.join(f'`{preset}`' for preset in options.preset_names())}.", ""]
    lines += ["| option | default | what it is |", "|---|---|---|"]
    for key, info, _ in options.leaves(command.config):
        default = "required" if info.is_required() else f"`{options.plain(info.default)}`"
        text = " ".join((info.description or "").split()).replace("|", "\\|")
        choices = options.choices(info)
        text += f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        lines.append(f"| `--{key.replace('_', '-')}` | {default} | {text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference(), end="")
