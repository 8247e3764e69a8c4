"""Tasks that need a process group, for `runs.py`: `ranks_of_one_device.py TASK ANSWER ...`."""

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import matrix
import torch
from ranks import free_port, launcher_variables


def one_rank(kind: str, folder: str, device: str) -> dict[str, Any]:
    """The loss of the second of two steps with one rank under a strategy."""
    import pytorch_lightning as lightning

    from trainer.microbatches import MicroBatching
    from trainer.modules.optimizer import OptimizerSettings
    from trainer.modules.retriever import Retriever, Temperature
    from trainer.objectives.contrastive import Contrastive
    from trainer.scores import dot
    from trainer.strategies.lightning import lightning_precision, lightning_strategy
    from trainer.strategies.machine.plan import Plan
    from trainer.strategies.process_group import process_group

    os.environ |= launcher_variables(0, 1, free_port())
    plan: Any = Plan(kind, 1, 1, 1)  # type: ignore[arg-type]
    losses: list[float] = []

    def objective(batch: Any, encode: Any, temperature: Any) -> Any:
        outcome = Contrastive(dot)(batch, encode, temperature)
        losses.append(float(outcome.loss.detach()))
        return outcome

    with process_group(plan, device):
        encoder = matrix.encoder_of(Path(folder), "dot", "full")
        module = Retriever(
            encoder,
            MicroBatching(encoder, 80, 160),
            objective,
            Temperature(0.1, is_learned=True),
            OptimizerSettings(1e-3, 1e-3, 1e-3, 0.0, "constant", 0, 2),
            lambda _: {},
        )
        data = torch.utils.data.DataLoader([matrix.batch_of(encoder)] * 2, batch_size=None)
        lightning.Trainer(
            accelerator=device,
            devices=1,
            strategy=lightning_strategy(plan, device),
            plugins=[lightning_precision(plan, "fp32", device)],
            gradient_clip_val=1.0,
            max_steps=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, data_on_the_cpu(data))
    return {"loss": losses[-1]}


def data_on_the_cpu(batches: Any) -> Any:
    import pytorch_lightning as lightning

    from trainer.data.module import PairData

    class Data(lightning.LightningDataModule):
        transfer_batch_to_device = PairData.transfer_batch_to_device

        def train_dataloader(self) -> Any:
            return batches

    return Data()


def two_ranks(folder: str, device: str) -> dict[str, Any]:
    """Loss and gradient of the global batch, from two ranks that share the device."""
    context = multiprocessing.get_context("fork")  # before CUDA is used
    answers: Any = context.SimpleQueue()
    port = free_port()
    processes = [
        context.Process(target=work, args=(rank, port, folder, device, answers))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    if errors := [each for each in found if isinstance(each, str)]:
        raise RuntimeError(errors[0])
    total = (torch.tensor(found[0][1]) + torch.tensor(found[1][1])) / 2
    return {"loss": found[0][0], "gradient": total.tolist()}


def work(rank: int, port: int, folder: str, device: str, answers: Any) -> None:
    os.environ |= launcher_variables(rank, 2, port)
    try:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        encoder = matrix.encoder_of(Path(folder), "dot", "full").to(device)
        batch = matrix.batch_of(encoder, rank, 2)
        loss, gradient = matrix.gradient_of(encoder, batch, "symmetric", "dot", "partly kept")
        answers.put((loss, gradient.tolist()))
        torch.distributed.barrier()
    except Exception as error:  # noqa: BLE001 - the parent raises it
        answers.put(repr(error))


TASKS = {"one_rank": one_rank, "two_ranks": two_ranks}


def main(words: list[str]) -> None:
    task, answer, *arguments = words
    Path(answer).write_text(json.dumps(TASKS[task](*arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
