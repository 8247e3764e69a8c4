"""Names of other libraries for what a recipe says, and what to write instead.

They come from sentence-transformers, the Trainer of transformers, PEFT, Lightning, FlagEmbedding
and Tevatron.
"""

import re
from collections.abc import Collection

from trainer.recipe.nearest import nearest, question

_MICRO_BATCHES = (
    "it has no effect here: optimization.batch_size counts the queries of a whole step, and"
    " micro-batches are made to fit into memory"
)
_DEVICE = "write machine.accelerator, and choose among several GPUs with CUDA_VISIBLE_DEVICES"
_LENGTH = "write model.query_max_length_tokens and model.document_max_length_tokens"
_MACHINE_FILE = "a machine file says it: `nearfar launch --machine FILE RECIPE`"
_VALIDATION_ADVICE = (
    "validation runs once per epoch, more often in the first one, or as often as"
    " validation.every_steps says"
)
_CHECKPOINT_ADVICE = (
    "checkpoints are saved as often as checkpoints.every_minutes or checkpoints.every_steps says"
)
_ADAMW = "the optimizer is AdamW with the usual betas; write its settings under optimization"
_THREADS = "batches are made by a thread of the training process; there are no workers to count"
_BEST = "the best weights by nDCG@10 on validation queries are always kept"
_PROMPTS = "write model.query_prompt and model.document_prompt"

_KEYS = {
    # optimizer and schedule
    "lr": "write optimization.learning_rate",
    "max_lr, peak_lr": "write optimization.learning_rate",
    "bs, train_batch_size": "write optimization.batch_size",
    "per_device_train_batch_size, per_device_batch_size, per_gpu_train_batch_size": (
        "write optimization.batch_size, the queries per step over all processes"
    ),
    "per_device_eval_batch_size, eval_batch_size": (
        "none is needed: texts are encoded in micro-batches of machine.micro_batch_tokens"
    ),
    "mini_batch_size, micro_batch_size, gc_chunk_size, gc_q_chunk_size, gc_p_chunk_size": (
        "write machine.micro_batch_tokens, which counts tokens; it changes time and memory alone"
    ),
    "gradient_accumulation_steps, accumulate_grad_batches, grad_accum": _MICRO_BATCHES,
    "grad_cache, gradcache": _MICRO_BATCHES,
    "num_train_epochs, num_epochs, n_epochs, max_epochs": "write optimization.epochs",
    "lr_scheduler_type, lr_scheduler, scheduler": "write optimization.schedule",
    "warmup, warmup_proportion": "write optimization.warmup_ratio or optimization.warmup_steps",
    "wd": "write optimization.weight_decay",
    "max_grad_norm, gradient_clip_val, grad_clip, clip_grad_norm": (
        "write optimization.gradient_clip_norm"
    ),
    "optimizer, optim, optimizer_params, adam_beta1, adam_beta2, adam_epsilon": _ADAMW,
    "random_seed, data_seed": "write seed",
    # model
    "model_name, model_name_or_path, pretrained_model_name_or_path, base_model": (
        "write model.backbone"
    ),
    "max_seq_length, max_length, model_max_length": _LENGTH,
    "query_max_len, query_max_length": "write model.query_max_length_tokens",
    "passage_max_len, document_max_length": "write model.document_max_length_tokens",
    "pooling_mode, sentence_pooling_method, pooling_strategy": "write model.pooling",
    "normalize_embeddings": "write model.normalize",
    "embedding_dim, projection_dim": "write model.projection_dimensions",
    "prompts": _PROMPTS,
    "query_instruction, query_instruction_for_retrieval": "write model.query_prompt",
    "passage_instruction": "write model.document_prompt",
    "r, lora_r, lora_rank": "write model.tuning.rank",
    "lora_alpha": "write model.tuning.alpha",
    "lora_dropout": "write model.tuning.dropout",
    "lora_target_modules": "write model.tuning.target_modules",
    "use_rslora, use_dora": "write model.tuning.rslora or model.tuning.dora",
    "lora, peft, peft_config, use_lora": "write model.tuning, with kind lora or full",
    "load_in_4bit, qlora": "write model.tuning.quantize_4bit",
    "gradient_checkpointing": "write model.activation_checkpointing",
    # data
    "train_file, train_data, train_dataset, dataset, dataset_name": "write data.train",
    "eval_dataset, validation_file, dev_file": "write data.validation",
    "test_file, test_dataset": "write data.test",
    "num_negatives, n_negatives, train_n_passages": "write data.negatives_per_query",
    "train_group_size": "write data.negatives_per_query, one less, as it leaves out the positive",
    "batch_sampler": (
        "none is needed: equal texts of a batch are recognized, and are not each other's negatives"
    ),
    "multi_dataset_batch_sampler": "write data.mixing",
    "num_workers, dataloader_num_workers, dataloader_drop_last": _THREADS,
    # objective
    "loss, loss_function, criterion": "write objective.kind",
    "scale": "write objective.temperature, which is 1 / scale",
    "negatives_cross_device, gather_across_devices": (
        "it is always so: every query is scored against the documents of all processes"
    ),
    "matryoshka_dims": "write matryoshka.dimensions",
    "matryoshka_weights": "write matryoshka.weights",
    # machine
    "device, no_cuda, use_cpu, cuda, gpu": _DEVICE,
    "fp16, bf16, fp32": "write machine.precision with this word as its value",
    "mixed_precision, dtype, torch_dtype": "write machine.precision",
    "torch_compile": "write machine.compile_layers",
    "deepspeed, fsdp, fsdp_config, ddp, devices, num_gpus, n_gpu, num_nodes": _MACHINE_FILE,
    # when to save, measure and report
    "output_dir, save_dir": "write output, the folder of all runs, and name, that of this run",
    "run_name, experiment_name": "write name",
    "report_to, logger": "write trackers, a list such as [{kind: wandb}]",
    "use_wandb": "write trackers: [{kind: wandb}]",
    "logging_steps, log_every_n_steps, logging_dir": (
        "none is needed: every step is in log.jsonl of the run folder"
    ),
    "save_steps, save_strategy": _CHECKPOINT_ADVICE,
    "save_total_limit": "write checkpoints.keep_last",
    "eval_steps, eval_strategy, evaluation_steps, evaluation_strategy": _VALIDATION_ADVICE,
    "val_check_interval": _VALIDATION_ADVICE,
    "load_best_model_at_end, metric_for_best_model, save_best_model": _BEST,
    "early_stopping, early_stopping_patience": "write validation.patience",
    "resume_from_checkpoint": "none is needed: `nearfar fit RECIPE --resume` continues a run",
    "overwrite_output_dir": "none is needed: `nearfar fit RECIPE --replace` starts a run again",
    "push_to_hub, hub_model_id": (
        "a run uploads nothing; `hf upload` takes the folder model/ of the run"
    ),
}

_VALUES = {
    # kind
    "dense, biencoder, sentence_transformer": "bi_encoder",
    "late_interaction, multi_vector, pylate": "colbert",
    "reranker": "cross_encoder",
    "splade, sparse_encoder": "sparse",
    "clip, siglip_model, vision_text": "image_text",
    # objective.kind
    "mnrl, cmnrl, MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss": "contrastive",
    "MNRLSymmetric, infonce, ntxent, in_batch_negatives": "contrastive",
    "siglip, sigmoid_loss, SigLipLoss": "sigmoid",
    "kl, kldiv, DistillKLDivLoss": "distillation",
    "MarginMSELoss": "margin_mse",
    "CoSENTLoss": "cosent",
    "TripletLoss": "triplet",
    "bce, BinaryCrossEntropyLoss, BCEWithLogitsLoss": "pointwise",
    "ranknet, RankNetLoss": "pairwise",
    "listnet, ListNetLoss, softmax, cross_entropy": "listwise",
    "LambdaRank": "lambda_loss",
    # model
    "avg, average, mean_pooling": "mean",
    "eos, last": "last_token",
    "none, all, full_finetuning": "full",
    "peft, qlora": "lora",
    # machine
    "gpu": "cuda",
    "float32, 32": "fp32",
    "bfloat16, bf16_mixed": "bf16",
    "half, float16, 16, 16_mixed": "fp16",
}


def _plain(name: str) -> str:
    """Returns the letters and digits of a name, which libraries write in several ways.

    >>> _plain("--num-train-epochs"), _plain("numTrainEpochs")
    ('numtrainepochs', 'numtrainepochs')
    """
    return re.sub("[^a-z0-9]", "", name.lower())


def _by_name(table: dict[str, str]) -> dict[str, str]:
    return {_plain(name): text for names, text in table.items() for name in names.split(",")}


ADVICE, VALUES = _by_name(_KEYS), _by_name(_VALUES)
"""What to write instead of a key, and instead of a value, by the name of other libraries."""


def advice(name: str) -> str:
    """Returns `; ` and what to write instead of another library's name for a key, or "".

    >>> advice("lr")
    '; write optimization.learning_rate'
    """
    text = ADVICE.get(_plain(name))
    return f"; {text}" if text else ""


def nearest_value(word: str, choices: Collection[str]) -> str:
    """Suggests the choice that another library calls `word`, or else the most similar ones.

    >>> nearest_value("MultipleNegativesRankingLoss", ["contrastive", "triplet"])
    '; did you mean contrastive?'
    """
    value = VALUES.get(_plain(word), "")
    return question([value] if value in choices else nearest(word, choices))
