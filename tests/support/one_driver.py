"""Runs several commands in one driver process, so that Ray and its workers start once for all of them.

    python -m tests.support.one_driver < commands

Each line is a command line of `ray_job.py`; the first one that fails ends the process with its exit code. RAY_ADDRESS
names the cluster.
"""

import shlex
import sys
from collections.abc import Iterable

import ray

import ray_job


def main(lines: Iterable[str]) -> int:
    ray.init()
    return next((code for line in lines if (code := ray_job.main(shlex.split(line)))), 0)


if __name__ == "__main__":
    sys.exit(main(sys.stdin))
