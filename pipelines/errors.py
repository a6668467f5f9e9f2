"""Errors that a user can cause or can act on. `ray_job.py` prints each as one sentence and returns its exit code."""


class UserError(Exception):
    """Wrong usage or bad input: exit code 2, no traceback. The message names the problem, its location and a remedy."""


class OutputTakenError(UserError):
    """The output already holds something else. Nothing may be written there, not even `result.json`."""


class StorageFailedError(UserError):
    """The storage failed, or did not answer in time. Unlike for other mistakes, another attempt may succeed."""


class DataSetError(UserError):
    """A fault of a data set. Each training on it would meet the same fault."""


class RunFailedError(Exception):
    """A run started correctly but could not finish: exit code 1, one sentence, no traceback."""


class WorkersLostError(RunFailedError):
    """A training lost its workers or their controller too often. It can continue from the last finished epoch."""
