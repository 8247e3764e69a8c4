"""Errors that a user can act on, each with the exit code of the command.

A message says what was given, why it cannot work, and what to do. Any other exception is a bug of
ours: the command ends with exit code 1 and a traceback.
"""

OUT_OF_MEMORY = "out_of_memory"
"""The reason in `status.json` and `attempts.json`, and the key of the step and its tokens there."""


class NearfarError(Exception):
    """Base class of errors whose cause is the input, the recipe or the machine.

    The exit code is 2 unless a subclass has another one.
    """

    exit_code = 2


class BadRecipe(NearfarError):
    """Raised when a recipe or an override cannot be used."""


class BadData(NearfarError):
    """Raised when a data set cannot be read, or lacks what the objective needs."""


class BadText(BadData):
    """Raised when a text cannot be tokenized, or an image not decoded. `text` is the text or the
    reference of the image.
    """

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


class BadModel(NearfarError):
    """Raised when a model cannot be loaded safely, or does not fit the recipe."""


class BadEndpoint(NearfarError):
    """Raised when an endpoint of a language model cannot be used or does not answer."""


class BadMachine(NearfarError):
    """Raised when the machine file or the launcher's variables cannot be used."""


class BadJob(NearfarError):
    """Raised when a Slurm profile, or a job that is to be submitted, cannot be used."""


class OtherRankFailed(NearfarError):
    """Raised on a rank when another rank has failed, which reports the cause."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class OutOfMemory(NearfarError):
    """Raised when the training does not fit into memory, also after a second start with half the
    tokens per micro-batch.
    """

    def __init__(self, message: str, record: dict[str, int]) -> None:
        super().__init__(message)
        self.details = {"reason": OUT_OF_MEMORY, OUT_OF_MEMORY: record}


class BadFolder(NearfarError):
    """Raised when a run or index folder is in use, not empty, read-only or of another kind."""


class BadCheckpoint(NearfarError):
    """Raised when a run cannot continue: its checkpoints are damaged, or belong to another run."""


class BadPipeline(NearfarError):
    """Raised when the stages of a pipeline do not fit together, or a stage did not write what it
    declares.
    """


class StageFailed(NearfarError):
    """Raised when a stage of a pipeline fails; the exit code is that of the stage."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NonFinite(NearfarError):
    """Raised before the optimizer step if the loss or a gradient is not finite. No weight has
    changed.
    """

    exit_code = 86


class Collapse(NearfarError):
    """Raised before the optimizer step if the vectors of a sparse model are all zero, or not sparse
    at all. No weight has changed.
    """

    exit_code = 86


class TooManyBadRows(NearfarError):
    """Raised when more rows are bad than `data.max_bad_rows_ratio` allows."""

    exit_code = 87


class SystemsFailed(NearfarError):
    """Raised when some systems of an evaluation could not be measured. The others were."""

    exit_code = 84


class Preempted(NearfarError):
    """Raised when a signal ended a run early. Its steps, if there are any, are in a checkpoint."""

    exit_code = 85


class Hang(NearfarError):
    """The end of a run in which no process made progress. The stacks are in the run folder."""

    exit_code = 88


class NoSpace(NearfarError):
    """Raised when a run cannot store its checkpoints or its model."""

    exit_code = 89


class Interrupted(NearfarError):
    """Raised after Ctrl-C, once the model trained so far is saved."""

    exit_code = 130
