"""`accelerate launch`, called in this process."""

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import BadMachine

if TYPE_CHECKING:
    from accelerate.commands.config.config_args import ClusterConfig


def read_by_accelerate(machine: Path) -> "ClusterConfig":
    """The file as accelerate reads it, which is stricter about keys than we are."""
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        return load_config_from_file(str(machine))
    except (ValueError, TypeError) as error:
        raise BadMachine(f"accelerate cannot use {machine}: {error}") from error


def run_ranks(arguments: list[str]) -> int:
    """Runs `accelerate launch` in this process and returns the exit code of the run: that of the
    first rank which failed, else 0.

    In this process, because the command by itself answers every failure of a rank with code 1 and a
    traceback of its own. A signal that ends the launcher (Ctrl-C) has been passed on to every rank,
    and each has ended, when this returns 128 + its number.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except ChildFailedError as error:
        code = int(error.get_first_failure()[1].exitcode)
        return 128 - code if code < 0 else code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
