"""The training of a run: from the weights before it, or from a checkpoint, to `model/`."""

import copy
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.loggers import Logger

from trainer.build.compiled_layers import compile_if_faster
from trainer.build.data import pair_data
from trainer.build.job import Job
from trainer.build.lightning_trainer import lightning_trainer
from trainer.build.module import lightning_module
from trainer.build.refresh import refresh
from trainer.build.saving import ModelSaver
from trainer.checkpoints.best import KeepBest
from trainer.checkpoints.callback import SaveCheckpoints, SaveTimes
from trainer.checkpoints.folder import BEST, Checkpoint, CheckpointFolder
from trainer.checkpoints.writer import CheckpointWriter, read_state, stored_names
from trainer.collectives import on_first_rank, rank
from trainer.errors import OUT_OF_MEMORY, BadCheckpoint, Interrupted, OutOfMemory
from trainer.evaluation.results import MAIN_METRIC, Selection
from trainer.mining.refresh import Refresh
from trainer.models.parts.lora import check_adapter_learned
from trainer.modules.retriever import NonFiniteStep, Retriever
from trainer.progress import expect, phase
from trainer.recipe.schema.machine import CheckpointSection
from trainer.runtime.attempts import write_json
from trainer.runtime.console import say
from trainer.runtime.memory import is_out_of_memory
from trainer.runtime.run_folder import RunFolder
from trainer.runtime.watch import current_watch
from trainer.stopping import in_step
from trainer.strategies.resuming import continue_after
from trainer.strategies.training_state import WEIGHT, trained_parameters


class ModelTraining:
    """Trains the model of a job, from its checkpoint if there is one, and saves it."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        checkpoints: CheckpointFolder,
        identity: dict[str, str],
        checkpoint: Checkpoint | None = None,
        trackers: Sequence[Logger] = (),
    ) -> None:
        self.job, self.folder, self._identity = job, folder, identity
        self._trackers = trackers
        self._checkpoints, self._checkpoint = checkpoints, checkpoint
        self.best = KeepBest(
            folder.checkpoints / BEST,
            job.recipe.validation.patience,
            job.validation_times.every_steps,
        )
        self.base_score: float | None = None
        self.is_interrupted = False
        """Whether Ctrl-C ended the training before its last step."""
        self._share: tuple[float, float | None] = (1.0, None)
        """The share of the change by training that is saved, and its validation score."""
        self._is_compiled = False
        self._refresher: Refresh | None = None
        # A model that ranks share out is never whole again, so the first rank keeps a copy.
        is_shared_out = job.plan.kind in ("fsdp2", "zero3")
        self._encoder = copy.deepcopy(job.encoder) if is_shared_out and rank() == 0 else job.encoder

    @property
    def selection(self) -> Selection:
        """How the weights of `model/` are chosen."""
        limitation = self.job.data.validation.limitation
        return Selection(self.base_score, self.best.score, self.best.step, limitation, *self._share)

    def run(self) -> None:
        """Trains up to the last step, or to Ctrl-C. Raises Preempted after a signal."""
        job, recipe = self.job, self.job.recipe
        module = lightning_module(recipe, job.encoder, job.steps, job.plan, job.teachers)
        self._refresher = refresh(recipe, job.data.train, self.folder.path / "refresh", job.steps)
        checkpoint = self._checkpoint
        first = 0 if checkpoint is None else checkpoint.step
        prepare = module.micro_batching.prepare
        data = pair_data(recipe, job.data, job.encoder, job.steps, self._refresher, first, prepare)
        # Compiled layers round differently, so a continued run keeps the decision.
        former = None if checkpoint is None else checkpoint.state.get("is_compiled", False)
        self._is_compiled = compile_if_faster(job, data.steps, former)
        writer = CheckpointWriter(self._checkpoints)
        saving = SaveCheckpoints(
            writer,
            self.best,
            _save_times(recipe.checkpoints),
            self._state,
            self._checkpoint,
            is_ddp=job.plan.kind == "ddp",
        )
        callbacks = [
            job.validation_times,
            self.best,
            saving,
            *([self._refresher] if self._refresher else []),
        ]
        scores = self._begin(module)
        loop = lightning_trainer(
            recipe,
            self.folder,
            job.steps,
            callbacks,
            job.plan,
            self._best_score,
            self._trackers,
            job.encoder,
        )
        for logger in loop.loggers:
            metrics = {f"validation/{metric}": score for metric, score in scores.items()}
            logger.log_metrics(metrics, step=max(0, first - 1))
        if first < job.steps and not self.best.is_patience_over:
            continue_after(loop, first)
            self._fit(loop, module, data)
        self.is_interrupted |= saving.is_interrupted and loop.global_step < job.steps

    def _fit(self, loop: Any, module: Retriever, data: Any) -> None:
        watch = current_watch()
        try:
            if watch is not None:
                watch.has_nothing_to_save = False
            with in_step():
                loop.fit(module, datamodule=data)
        except Interrupted:
            self.is_interrupted = True
        except NonFiniteStep as error:
            record = error.record
            on_first_rank(lambda: write_json(self.folder.path / "non_finite.json", record))
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            lack = self._out_of_memory(module, loop.global_step)
            if watch is not None:
                watch.end_other_ranks(lack)
            raise lack from error
        finally:
            if watch is not None:
                watch.has_nothing_to_save = True

    def _out_of_memory(self, module: Retriever, step: int) -> OutOfMemory:
        """Returns the error for a step without enough memory, with its tokens."""
        batching, batch = module.micro_batching, module.batch
        texts = (batch.queries, batch.documents) if batch is not None else ()
        lengths = [length for role in texts for length in role.lengths.tolist()] or [0]
        record = {
            "step": step + 1,
            "batch_tokens": sum(lengths),
            "longest_text_tokens": max(lengths),
            "micro_batch_tokens": batching.tokens or sum(lengths),
            "kept_tokens": batching.kept_tokens or 0,
        }
        former = [attempt.get(OUT_OF_MEMORY) for attempt in self.folder.attempts[-2:-1]]
        sizes = [f" ({tokens['micro_batch_tokens']:,} before)" for tokens in former if tokens]
        return OutOfMemory(
            f"rank {rank()} on {socket.gethostname()} is out of memory at step {step + 1}: its"
            f" batch has {sum(lengths):,} tokens, and the longest text {max(lengths):,}, in"
            f" micro-batches of {record['micro_batch_tokens']:,} tokens{''.join(sizes)}, and"
            f" the activations of {record['kept_tokens']:,} were kept. Lower"
            " machine.micro_batch_tokens, machine.kept_tokens or model.document_max_length_tokens,"
            " or use more ranks, and continue with --resume",
            record,
        )

    def _begin(self, module: Retriever) -> Mapping[str, float]:
        """Validates before the first step, or reads the checkpoint.

        Returns the validation scores if there are new ones.
        """
        if self._checkpoint is None:
            scores = self._validate(module, "validation before training")
            self.base_score = None if self.job.encoder.is_untrained else scores[MAIN_METRIC]
            self.best.keep_base(module)
            return scores
        step, state = self._checkpoint.step, self._checkpoint.state
        self.best.load_state_dict(state["best"])
        self.base_score = state["base_score"]
        if self._refresher is not None:
            self._refresher.load_state_dict(state["refresh"])
        _read_weights(module, self._checkpoint)
        if state["is_validated"] or not self.job.validation_times.is_due(step):
            return {}
        scores = self._validate(module, f"validation at step {step}")
        self.best.record(scores[MAIN_METRIC], step, module)
        return scores

    def _validate(self, module: Retriever, name: str) -> Mapping[str, float]:
        with phase(name, kind="validation"):
            return module.validate(self.job.data.validation)

    @property
    def _best_score(self) -> float | None:
        scores = [score for score in (self.base_score, self.best.score) if score is not None]
        return max(scores, default=None)

    def _state(self) -> dict[str, Any]:
        """Returns what a checkpoint stores in addition to the state of the trainer."""
        log = self.folder.log_path
        return {
            "base_score": self.base_score,
            "refresh": self._refresher.state_dict() if self._refresher is not None else {},
            "identity": self._identity,
            "log_bytes": log.stat().st_size if log.exists() else 0,
            "ranks": self.job.plan.ranks,
            "strategy": self.job.plan.kind,
            "is_compiled": self._is_compiled,
        }

    def save(self) -> None:
        """Writes `model/`: the weights of the best validation, or those from before training where
        no validation was better, or weights between them. Raises NoSpace if no disk takes it.
        """
        selection = self.selection
        if selection.base_won:
            expect({})  # it has been measured already
        if self.best.score is not None:
            base = f", {self.base_score:.3f} before training" if self.base_score is not None else ""
            limitation = f", {selection.limitation}" if selection.limitation else ""
            score = f"{self.best.score:.3f} at step {self.best.step}{base}{limitation}"
            say(f"best validation nDCG@10 {score}")
        saver = ModelSaver(self.job, self.folder, self.best, self._encoder)
        on_first_rank(self._check_learned)
        if self._may_interpolate and self.base_score is not None and self.best.score is not None:
            self._share = saver.choose_share(self.base_score, self.best.score)
        with phase("saving the model"):
            on_first_rank(lambda: saver.save(0.0 if selection.base_won else self._share[0]))

    def _check_learned(self) -> None:
        self.best.restore(self._encoder)
        if not self.is_interrupted:
            check_adapter_learned(self._encoder)

    @property
    def _may_interpolate(self) -> bool:
        is_wanted = self.job.recipe.validation.interpolate
        return is_wanted and not self.is_interrupted and not self.selection.base_won


def _save_times(section: CheckpointSection) -> SaveTimes:
    minutes = section.every_minutes
    return SaveTimes(section.every_steps, None if minutes is None else 60.0 * minutes)


def _read_weights(module: Retriever, checkpoint: Checkpoint) -> None:
    """Reads the trained weights into a module that is not shared out among ranks yet."""
    weights = {f"{WEIGHT}/{name}": parameter.data for name, parameter in trained_parameters(module)}
    stored_weights = {
        name for name in stored_names(checkpoint.path) if name.startswith(f"{WEIGHT}/")
    }
    if different := sorted(weights.keys() ^ stored_weights):
        raise BadCheckpoint(
            f"{checkpoint.path} has other weights than this recipe trains: {len(different)} differ,"
            f" first {different[0].removeprefix(f'{WEIGHT}/')}; continue with the recipe that it"
            " was written for, or start again with --replace"
        )
    read_state(checkpoint.path, weights)
