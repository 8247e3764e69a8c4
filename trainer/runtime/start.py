"""The checks of a process of a run before it imports heavy libraries, so that a mistake is reported
at once.
"""

import os
from pathlib import Path

from trainer.runtime.run_folder import check_run_folder
from trainer.strategies.machine.deepspeed_settings import set_deepspeed_device
from trainer.strategies.machine.environment import plan_from_environment
from trainer.strategies.machine.own_rank import is_first_rank
from trainer.strategies.machine.plan import Plan, check_requirements


def start_process(folder: Path, replace: bool = False, resume: bool = False) -> Plan:
    """Returns the plan of this process, from the variables of its launcher.

    It must be called before `trainer.run` is imported, because DeepSpeed must know its device
    before transformers imports it. Raises BadMachine for a plan that this machine cannot carry out,
    and BadFolder for a run folder that cannot be created. With `replace` or `resume`, the folder
    may contain a former run.
    """
    plan = plan_from_environment(os.environ)
    if is_first_rank(os.environ):
        check_run_folder(folder, replace, resume)
    check_requirements(plan)
    set_deepspeed_device(plan.accelerator)
    return plan
