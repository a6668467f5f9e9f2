"""What a user can cause. `ray_job.py` turns these into one clear sentence and an exit code."""


class UserError(Exception):
    """Wrong usage or bad input: exit code 2, no traceback. The message says what, where and what to do."""


class OutputTakenError(UserError):
    """The output already holds something else. Nothing may be written there, a result neither."""


class RunFailedError(Exception):
    """A run that started correctly could not finish: exit code 1, one sentence, no traceback."""


class WorkersLostError(RunFailedError):
    """A training lost its workers, or their controller, too often; from the last epoch it can go on."""
