"""The `nearfar` command: its verbs, and how it ends. `--help` is quick because no verb imports
anything heavy before it runs.
"""

import atexit
import os
import select
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from trainer.cli import (
    check,
    cut,
    data,
    encode,
    evaluate,
    fit,
    index,
    launch,
    mine,
    pipeline,
    recipe,
    report,
    search,
)
from trainer.errors import Interrupted, NearfarError
from trainer.storage.visible import visible

READER_GONE = 141
"""The exit code of a Unix command whose reader went away: 128 + SIGPIPE."""


class _Verbs(TyperGroup):
    """The verbs in the order of a user's work, and a quiet end when the reader of our output has
    gone (`nearfar ... | head`).
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
        return result


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich alone would take a third of the time `--help` may take
    pretty_exceptions_enable=False,
    help="Train text-embedding and retrieval models, and prove that they got better.",
)
for verb, in_short in (
    (fit.fit, "Train a model by a recipe, and show what it gained."),
    (check.check, "Look over a run before it is submitted."),
    (launch.launch, "Train, or mine, on the processes of a machine file."),
    (pipeline.pipeline, "Run stages that name each other's outputs."),
    (evaluate.evaluate, "Measure models side by side on judged queries."),
    (cut.cut, "Write the smaller model inside one trained with matryoshka."),
    (mine.mine, "Find hard negatives for training pairs."),
    (encode.encode, "Turn lines of text into vectors."),
    (index.index, "Make a corpus searchable."),
    (index.add, "Add documents to an index."),
    (index.delete, "Take documents out of an index."),
    (search.search, "Show the documents nearest to a question."),
    (report.report, "Write the page of a run anew."),
):
    app.command(
        short_help=in_short, context_settings=launch.ANY_WORDS if verb is launch.launch else None
    )(verb)
app.add_typer(data.app, name="data")
app.add_typer(recipe.app, name="recipe")


def main() -> NoReturn:
    """Runs the command line and exits: 0 done, 2 bad input, the code of the `NearfarError` raised,
    130 on Ctrl-C, 1 with a traceback for a bug.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        app(prog_name="nearfar")
    except NearfarError as error:
        message = f"{'stopped' if isinstance(error, Interrupted) else 'error'}: {error}"
        from trainer.strategies.own_rank import let_first_rank_speak

        let_first_rank_speak(os.environ)
        print("\n".join(map(visible, message.split("\n"))), file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as ended:
        if not ended.code and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _leave_at_once()
        raise
    sys.exit(0)


def _leave_at_once() -> NoReturn:
    """Ends one of several ranks without taking the interpreter apart.

    A thread of gloo or of autograd that asks for the interpreter at that moment is unwound through
    C++, which aborts the process: a run that is saved and whose process group is closed would end
    with exit code 134, now and then, on a busy machine.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _reader_gone() -> bool:
    """Whether it is our standard output that nobody reads any more, and not some other pipe or
    socket.
    """
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


if __name__ == "__main__":
    main()
