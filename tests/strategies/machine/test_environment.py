"""What launchers export and machine files say becomes a plan, or an error that says what to write
instead.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trainer.errors import BadMachine
from trainer.strategies.machine import environment
from trainer.strategies.machine.environment import plan_from_environment
from trainer.strategies.machine.machine_file import plan_from_file
from trainer.strategies.machine.own_rank import is_first_rank, local_rank
from trainer.strategies.machine.plan import SINGLE, Plan, check_requirements
from trainer.strategies.process_group import torchrun_variables

TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
}
ACCELERATE = TORCHRUN | {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}
FSDP = ACCELERATE | {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
}
FLAT = {
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "1",
    "PARALLELISM_CONFIG_DP_SHARD_SIZE": "1",
    "PARALLELISM_CONFIG_TP_SIZE": "1",
    "PARALLELISM_CONFIG_CP_BACKEND": "torch",
    "PARALLELISM_CONFIG_SP_SEQ_LENGTH_IS_VARIABLE": "True",
}
"""What accelerate exports for a file that has only dp_replicate_size: 1."""
DEEPSPEED = ACCELERATE | {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
}


def machine_file(folder: Path, **changes: object) -> Path:
    """A file for four ranks on two nodes."""
    file = {
        "distributed_type": "MULTI_GPU",
        "use_cpu": True,
        "num_processes": 4,
        "num_machines": 2,
    } | changes
    path = folder / "machine.yaml"
    path.write_text(yaml.safe_dump(file), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("environ", "kind", "more"),
    [
        (TORCHRUN, "ddp", {}),
        (ACCELERATE, "ddp", {}),
        (ACCELERATE | {"ACCELERATE_MIXED_PRECISION": "bf16"}, "ddp", {"precision": "bf16"}),
        (FSDP, "fsdp2", {"reshard_after_forward": False}),
        (FSDP, "fsdp2", {"weight_copies": 2, "ranks_per_copy": 2}),
        (FSDP | FLAT, "fsdp2", {"weight_copies": 1, "ranks_per_copy": 4}),
        (DEEPSPEED, "zero1", {}),
        (
            {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"},
            "ddp",
            {},
        ),
    ],
)
def test_launchers_give_their_plans(environ, kind, more):
    plan = plan_from_environment(environ)
    assert (plan.kind, plan.ranks, plan.nodes, plan.ranks_per_node) == (kind, 4, 2, 2)
    assert {name: getattr(plan, name) for name in more} == more
    assert not is_first_rank(environ)


def test_ranks_alone_on_their_nodes_share_one_copy_of_the_weights():
    for ranks_per_node, copies in (("4", 1), ("2", 2), ("1", 1)):
        plan = plan_from_environment(FSDP | {"LOCAL_WORLD_SIZE": ranks_per_node})
        assert (plan.weight_copies, plan.ranks_per_copy) == (copies, 4 // copies)
    for environ in (TORCHRUN, ACCELERATE, DEEPSPEED):
        assert plan_from_environment(environ).ranks_per_copy == 1
    zero3 = DEEPSPEED | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
    assert plan_from_environment(zero3).ranks_per_copy == 4


def test_start_without_a_launcher_is_a_single_process():
    assert (
        plan_from_environment({"HOME": "/root", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}) == SINGLE
    ), "in a job, but not started by srun"
    assert plan_from_environment(TORCHRUN | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}) == SINGLE
    assert is_first_rank({})


def test_single_process_is_the_first_of_its_node(repository, tmp_path):
    """accelerate gives no number to the one process that it starts for a file such as gpu-1."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom trainer.strategies.machine.own_rank import local_rank\n"
        "print('LOCAL_RANK' in os.environ, local_rank(os.environ))\n"
    )
    machine = repository / "launch/accelerate/gpu-1.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(machine)]
    environ = {name: value for name, value in os.environ.items() if name not in TORCHRUN}
    environ["PYTHONPATH"] = str(repository)
    started = subprocess.run(
        [*command, str(script)], capture_output=True, text=True, check=True, env=environ
    )
    assert started.stdout == "False 0\n"
    assert local_rank(TORCHRUN) == 1


def test_srun_variables_become_those_of_torchrun():
    environ = SRUN | {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_ID": "20007"}
    assert torchrun_variables(environ) == TORCHRUN | {"MASTER_ADDR": "n1", "MASTER_PORT": "15007"}
    assert torchrun_variables(TORCHRUN | environ) == {}


def test_rank_that_sees_its_own_gpu_alone_is_the_only_one_of_its_node():
    """`srun --gpus-per-task=1`: the GPU of each rank is number 0, whatever its local rank."""
    for gpus, ranks_per_node, own in (("0", 1, "0"), ("0,1", 2, "1"), ("", 2, "1")):
        environ = SRUN | {"CUDA_VISIBLE_DEVICES": gpus}
        variables, plan = torchrun_variables(environ), plan_from_environment(environ)
        assert (plan.ranks, plan.ranks_per_node) == (4, ranks_per_node)
        assert variables["LOCAL_WORLD_SIZE"] == str(ranks_per_node)
        assert (variables["RANK"], variables["LOCAL_RANK"]) == ("3", own)


def test_offload_and_auto_in_a_deepspeed_file_are_read(tmp_path):
    settings = {
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": "auto",
            "offload_param": {"device": "cpu"},
            "offload_optimizer": {"device": "none"},
        },
        "bf16": {"enabled": True},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": 1,
    }
    (tmp_path / "ds.json").write_text(json.dumps(settings), encoding="utf-8")
    plan = plan_from_file(
        machine_file(
            tmp_path,
            distributed_type="DEEPSPEED",
            deepspeed_config={"deepspeed_config_file": str(tmp_path / "ds.json")},
        )
    )
    assert plan == Plan("zero3", 4, 2, 2, "bf16", "cpu", plan.deepspeed)
    assert plan.deepspeed is not None
    assert plan.deepspeed["zero_optimization"] == {
        "stage": 3,
        "stage3_max_reuse_distance": 0,
        "offload_param": {"device": "cpu"},
    }
    assert "auto" not in json.dumps(plan.deepspeed)


TWO_FSDP = {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}
REFUSED = {
    "unknown strategy": ({"distributed_type": "MEGATRON_LM"}, "MEGATRON_LM.*use NO, MULTI_GPU"),
    "one process after all": (
        {"distributed_type": "MULTI_CPU"},
        "starts one process only.*MULTI_GPU.*use_cpu: true",
    ),
    "several without a strategy": ({"distributed_type": "NO"}, "starts one process only"),
    "the first FSDP": (
        {"distributed_type": "FSDP", "fsdp_config": {"fsdp_sharding_strategy": "FULL_SHARD"}},
        "set fsdp_version: 2",
    ),
    "offload under FSDP": (
        {
            "distributed_type": "FSDP",
            "fsdp_config": {"fsdp_version": 2, "fsdp_offload_params": True},
        },
        "ZeRO-3",
    ),
    "accumulation": (
        {"distributed_type": "DEEPSPEED", "deepspeed_config": {"gradient_accumulation_steps": 4}},
        "gradient_accumulation_steps is 4.*batch_size",
    ),
    "clipping": (
        {"distributed_type": "DEEPSPEED", "deepspeed_config": {"gradient_clipping": 1.0}},
        "gradient_clip_norm",
    ),
    "no such stage": (
        {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 0}},
        "not 1, 2 or 3",
    ),
    "fp8": ({"mixed_precision": "fp8"}, "fp8"),
    "fp16 on a CPU": ({"mixed_precision": "fp16"}, "needs a GPU"),
    "ranks do not fit nodes": ({"num_processes": 3}, "multiple of num_machines"),
    "copies without FSDP": (
        {"parallelism_config": {"parallelism_config_dp_replicate_size": 2}},
        "parallelism_config is not supported",
    ),
    "tensors in parallel": (
        TWO_FSDP | {"parallelism_config": {"parallelism_config_tp_size": 2}},
        "parallelism_config_tp_size is not supported",
    ),
    "copies that do not fit": (
        TWO_FSDP | {"parallelism_config": {"parallelism_config_dp_replicate_size": 3}},
        "3 copies.*but there are 4 processes.*remove the section",
    ),
    "shards that do not fit": (
        TWO_FSDP | {"parallelism_config": {"parallelism_config_dp_shard_size": 2}},
        "1 copies.*shared by 2 processes.*whose product is 4",
    ),
    "compiled": ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "dynamo_config"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradicting_machine_files_are_refused(tmp_path, case):
    changes, message = REFUSED[case]
    with pytest.raises(BadMachine, match=message) as caught:
        plan_from_file(machine_file(tmp_path, **changes))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"type": "AdamW"}}, "'optimizer' is not supported"),
        ({"scheduler": {"type": "WarmupLR"}}, "'scheduler'"),
        ({"gradient_predivide_factor": 2.0}, "gradient_predivide_factor is 2.0"),
        ({"prescale_gradients": True}, "prescale_gradients"),
        ({"train_batch_size": 64}, "batch_size"),
        (
            {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
            "zero_quantized_weights",
        ),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            "offload_param needs ZeRO stage 3",
        ),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}, "nvme"),
    ],
)
def test_deepspeed_settings_that_change_training_are_refused(tmp_path, settings, message):
    (tmp_path / "ds.json").write_text(
        json.dumps({"zero_optimization": {"stage": 2}} | settings), encoding="utf-8"
    )
    with pytest.raises(BadMachine, match=message):
        plan_from_file(
            machine_file(
                tmp_path,
                distributed_type="DEEPSPEED",
                deepspeed_config={"deepspeed_config_file": str(tmp_path / "ds.json")},
            )
        )


def test_invalid_files_are_refused(tmp_path):
    with pytest.raises(BadMachine, match="cannot be read"):
        plan_from_file(tmp_path / "absent.yaml")
    (tmp_path / "machine.yaml").write_text("model: x", encoding="utf-8")
    with pytest.raises(BadMachine, match="not a machine file"):
        plan_from_file(tmp_path / "machine.yaml")
    with pytest.raises(BadMachine, match="DeepSpeed file.*cannot be read"):
        plan_from_file(
            machine_file(
                tmp_path,
                distributed_type="DEEPSPEED",
                deepspeed_config={"deepspeed_config_file": "absent.json"},
            )
        )


def test_accelerate_with_too_few_processes_is_refused():
    with pytest.raises(BadMachine, match="starts one process only"):
        plan_from_environment(
            {
                "ACCELERATE_MIXED_PRECISION": "no",
                "ACCELERATE_USE_CPU": "True",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": "29500",
            }
        )


def test_file_of_the_launcher_completes_the_variables(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_file_of_launcher", lambda: machine_file(tmp_path))
    assert plan_from_environment(ACCELERATE).accelerator == "cpu"
    monkeypatch.setattr(
        environment, "_file_of_launcher", lambda: machine_file(tmp_path, use_cpu=False)
    )
    assert plan_from_environment(ACCELERATE).accelerator == "cuda"


def test_missing_devices_are_named(monkeypatch):
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(
            BadMachine, match="2 GPUs per node.*finds none on this machine.*use_cpu: true"
        ):
            check_requirements(Plan("ddp", 2, 1, 2, accelerator="cuda"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        BadMachine, match=r"DeepSpeed.*not installed; pip install 'nearfar\[deepspeed\]'"
    ):
        check_requirements(Plan("zero2", 2, 1, 2, deepspeed={}))
