"""Errors a person can act on, each with the exit code the command ends with.

A message says what was given, why it cannot work, and what to do. Anything that is not one of these
is a bug of ours and ends with exit code 1 and a traceback.
"""


class NearfarError(Exception):
    """Base of every error that is the input's, the recipe's or the machine's, not ours."""

    exit_code = 2


class BadRecipe(NearfarError):
    """The recipe, or an override of it, cannot be understood."""


class BadData(NearfarError):
    """A data set cannot be read, or lacks what the objective needs."""


class BadModel(NearfarError):
    """A model folder or name cannot be loaded safely."""


class BadMachine(NearfarError):
    """The machine file, or what a launcher exported, cannot be used here."""


class OtherRankFailed(NearfarError):
    """Another process of the run has failed and says why; this one ends with it."""


class BadFolder(NearfarError):
    """A run or index folder cannot be used: in use, not empty, read-only, or of another kind."""


class BadPipeline(NearfarError):
    """The stages of a pipeline do not fit together, or one of them did not make what it said."""


class StageFailed(NearfarError):
    """A stage of a pipeline ended with an error; the pipeline ends with the same exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NonFinite(NearfarError):
    """The loss or a gradient is not finite; raised before the optimizer step, so no weight was
    touched.
    """

    exit_code = 86


class TooManyBadRows(NearfarError):
    """More rows were quarantined than `data.max_bad_rows_ratio` allows."""

    exit_code = 87


class Interrupted(NearfarError):
    """The person pressed Ctrl-C; what was learned so far has been saved."""

    exit_code = 130
