"""The `nearfar` command: its verbs and its exit codes.

`--help` is quick, because no verb imports heavy libraries before it runs.
"""

import atexit
import os
import re
import select
import signal
import sys
import traceback
from errno import EACCES, EROFS
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from trainer.cli import (
    check,
    cut,
    encode,
    evaluate,
    fit,
    index,
    launch,
    mine,
    pipeline,
    report,
    search,
)
from trainer.cli.groups import data, recipe, route
from trainer.cli.jobs import compare, runs, submit
from trainer.cli.measure import rag, selection
from trainer.cli.terminal import StartAgain
from trainer.cli.tracking import dashboard, sync
from trainer.errors import BadFolder, Interrupted, NearfarError, OtherRankFailed, Preempted
from trainer.pipeline.usage_error import UsageError
from trainer.runtime.console import console
from trainer.storage.redaction import redact_command
from trainer.storage.visible import visible

READER_GONE = 141
"""The exit code of a Unix command whose output is no longer read: 128 + SIGPIPE."""


class _Verbs(TyperGroup):
    """The verbs in the order of a user's work.

    The command ends without an error if its output is no longer read (`nearfar ... | head`).
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            if not _reader_gone():
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(READER_GONE) from None
        except UsageError as error:
            if advice := _setting_advice(error):
                error.message, error.possibilities = error.message + advice, None
            raise
        return result


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,  # importing rich would take a third of the time that `--help` may take
    pretty_exceptions_enable=False,
)
for verb, summary in (
    (fit.fit, "Train a model from a recipe, and show whether it got better."),
    (check.check, "Check a run before it is submitted."),
    (launch.launch, "Train or mine on the processes of a machine file."),
    (submit.submit, "Run a recipe, a mining job or a pipeline on a Slurm cluster."),
    (pipeline.pipeline, "Run the stages of a pipeline that are not done."),
    (evaluate.evaluate, "Measure models on judged queries, and compare them."),
    (rag.rag, "Measure what retrieval does for answers."),
    (selection.select, "Choose a model for your data by quality and cost."),
    (cut.cut, "Write the smaller model inside a matryoshka model."),
    (cut.blend, "Write the model between a base model and a tuned one."),
    (mine.mine, "Find hard negatives for training pairs."),
    (encode.encode, "Encode lines of text as vectors."),
    (index.index, "Make a corpus searchable."),
    (index.add, "Add documents to an index."),
    (index.delete, "Delete documents from an index."),
    (search.search, "Print the documents that answer a question."),
    (runs.runs, "Show what runs, what waits, and how runs ended."),
    (compare.compare, "Show runs side by side, with paired tests."),
    (report.report, "Write the report page of a run again."),
    (sync.sync, "Write a run to W&B, TensorBoard, MLflow or Trackio."),
    (dashboard.dashboard, "Write the W&B workspace of a project."),
):
    settings = launch.ANY_WORDS if verb in (launch.launch, submit.submit) else None
    app.command(short_help=summary, context_settings=settings)(verb)
app.add_typer(data.app, name="data")
app.add_typer(recipe.app, name="recipe")
app.add_typer(route.app, name="route")


def _print_version(is_given: bool) -> bool:
    if is_given:
        from importlib.metadata import version

        typer.echo(f"nearfar {version('nearfar')}")
        raise typer.Exit
    return is_given


@app.callback()
def nearfar(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train text-embedding and retrieval models, and prove that they got better."""


def main() -> NoReturn:
    """Runs the command line and exits with 0 for success or the `exit_code` of a `NearfarError`.

    Other exit codes are 2 for invalid arguments, 130 on Ctrl-C, and 1 with a traceback for a bug.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # torch's C++ code warns of the end of other ranks, and advises against what we need.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    _replace_closed_streams()
    with console():
        words = _run()
    if words is not None:
        before_words = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
        os.execv(sys.executable, [sys.executable, *before_words, *words])  # noqa: S606 - no shell
    sys.exit(0)


def _run() -> list[str] | None:
    """Runs the command. Returns the words of the one that must follow in its place."""
    try:
        app(prog_name="nearfar")
    except StartAgain as again:
        print(f"starting again: nearfar {redact_command(again.words)}", file=sys.stderr)
        return again.words
    except NearfarError as error:
        _report(error)
        _end(error.exit_code)
    except SystemExit as end:
        if isinstance(end.code, int | None):
            _end(end.code or 0)
        raise
    except Exception as error:  # noqa: BLE001 - a bug of ours, printed here: without secrets
        if refusal := _disk_refusal(error):
            _report(refusal)
            _end(refusal.exit_code)
        # Before the interpreter shuts down, for which NCCL would wait for the other ranks.
        traceback.print_exc()
        _end(1)
    return None


def _disk_refusal(error: Exception) -> BadFolder | None:
    """Returns the error of a disk that is full, read-only or of another user, which is no bug."""
    from trainer.storage.atomic import DISK_FULL

    if not isinstance(error, OSError) or error.errno not in (*DISK_FULL, EROFS, EACCES):
        return None
    place = f"{error.filename}: " if error.filename else ""
    advice = "free some space, or " if error.errno in DISK_FULL else ""
    return BadFolder(f"{place}{error.strerror}; {advice}name a place you may write to")


def _report(error: NearfarError) -> None:
    """Prints an error, after those that explain it. One rank says that all have stopped."""
    from trainer.strategies.machine.own_rank import is_first_rank, wait_to_speak

    has_stopped = isinstance(error, Interrupted | Preempted)
    if not is_first_rank(os.environ) and (has_stopped or _was_refused_before(error)):
        return
    if _has_other_ranks():
        wait_to_speak(os.environ, isinstance(error, OtherRankFailed))
    message = f"{'stopped' if has_stopped else 'error'}: {error}"
    print("\n".join(map(visible, message.split("\n"))), file=sys.stderr)


def _was_refused_before(error: NearfarError) -> bool:
    """Returns whether a launcher ends this rank because another one was refused, and said why.

    Input that is refused is the same on all ranks, of which one may begin later.
    """
    from trainer.stopping import was_asked_to_end

    return _has_other_ranks() and error.exit_code == NearfarError.exit_code and was_asked_to_end()


def _has_other_ranks() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _end(code: int) -> NoReturn:
    """Ends the process. One of several ranks ends without shutting down the interpreter.

    A thread of gloo or of autograd that needs the interpreter during its shutdown aborts the
    process. On a busy machine, a successful run would then occasionally end with exit code 134.
    """
    if code == Preempted.exit_code:
        # The interpreter gives up its handlers as it ends. A second signal, which Slurm often
        # sends, would then end the process with another code, and the job is not started again.
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    if not _has_other_ranks():
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _setting_advice(error: Any) -> str:
    """Returns how a setting of the recipe is written that was given as an option, or ""."""
    option = re.fullmatch(r"No such option: -+([\w.-]+)", error.message)
    arguments = error.ctx.command.params if error.ctx is not None else []
    if option is None or not any("KEY=VALUE" in str(argument.metavar) for argument in arguments):
        return ""
    from trainer.recipe.keys import all_keys, suggestion_for
    from trainer.recipe.nearest import nearest
    from trainer.recipe.other_names import advice

    *parent, name = option[1].replace("-", "_").split(".")
    names = {key.path[-1] for key in all_keys() if not key.sections}
    options = [word for argument in arguments for word in argument.opts]
    is_mistyped = nearest(f"--{option[1]}", options, likeness=0.75)
    if not advice(name) and (is_mistyped or not nearest(name, names, likeness=0.75)):
        return ""
    suggestion = suggestion_for(name, tuple(parent))
    return f". A setting of the recipe is written KEY=VALUE, no dashes{suggestion}"


def _replace_closed_streams() -> None:
    """Opens the null device for each standard stream that the caller has closed.

    Otherwise, the next file that is opened would get its descriptor and all that libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _reader_gone() -> bool:
    """Returns True if standard output is no longer read, and not another pipe or socket."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


if __name__ == "__main__":
    main()
