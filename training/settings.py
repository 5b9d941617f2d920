"""Settings of every training, for any model. Light: no torch."""

from dataclasses import dataclass

from gesso.devices import has_cuda_driver
from gesso.errors import UserError
from gesso.flags import at_least, finite, flag, one_of
from gesso.training.encode_settings import cores

PRECISIONS = ("fp32", "bf16", "fp16")
PARALLEL = ("ddp", "fsdp")
FORMS = ("whole", "sharded")
DAMAGED = ("refuse", "quarantine")
LARGEST_SEED = 2**63 - 1  # of torch's


def loaders() -> int:
    """None on a CPU, which has no time to spare; beside a GPU up to 8, of at most half the cores of this process."""
    return min(8, cores() // 2) if has_cuda_driver() else 0


def check_seed_and_average(seed: int, ema: float) -> None:
    """Raises UserError where a seed is none of torch's, or a decay of averaged weights is 1 or more."""
    at_least(0, seed=seed, ema=ema)
    finite(ema=ema)
    if seed > LARGEST_SEED:
        raise UserError(f"--seed is {seed}: give at most {LARGEST_SEED}")
    if ema >= 1:
        raise UserError(f"--ema is {ema}: give less than 1")


@dataclass(frozen=True)
class ComputeSettings:
    """How updates are computed: changes the weights by no more than rounding, so a resumed run may change it."""

    precision: str = flag("fp32", "dtype of activations: fp32, bf16, or fp16 with loss scaling; weights stay fp32")
    parallel: str = flag("ddp", "with several processes: ddp (replicated weights) or fsdp (sharded weights)")
    accumulate: int = flag(1, "parts of a process's batch whose gradients are accumulated; more parts save memory")
    recompute: bool = flag(False, "recompute activations in the backward pass (activation checkpointing), saves memory")
    compile: bool = flag(False, "compile the model with torch.compile")

    def __post_init__(self) -> None:
        one_of(PRECISIONS, precision=self.precision)
        one_of(PARALLEL, parallel=self.parallel)
        at_least(1, accumulate=self.accumulate)


@dataclass(frozen=True)
class LoopSettings:
    """What the loop does beside the updates: reading, logging, evaluation, checkpoints. A resumed run may change it."""

    workers: int = flag(2, "threads of each process that read and decode pictures")
    loaders: int = flag(
        loaders, "processes that prepare batches, each with --workers threads; 0: threads of the training itself"
    )
    damaged: str = flag("refuse", "if shards are damaged: refuse to train, or quarantine (train without them)")
    log_every: int = flag(10, "updates between two records in metrics.jsonl")
    evaluate_every: int = flag(500, "updates between two evaluations on the validation split")
    validation_samples: int = flag(1024, "samples of an evaluation, at most")
    save_every: int = flag(500, "updates between two checkpoints")
    keep: int = flag(3, "number of latest checkpoints to keep; the best one is kept besides")
    checkpoint: str = flag("whole", "form of checkpoints: whole (one file) or sharded (each process writes its part)")
    spike: float = flag(2.0, "stop the run when the loss exceeds its moving average by more than this, nats")

    def __post_init__(self) -> None:
        one_of(DAMAGED, damaged=self.damaged)
        one_of(FORMS, checkpoint=self.checkpoint)
        at_least(0, loaders=self.loaders)
        at_least(1, workers=self.workers, log_every=self.log_every, keep=self.keep)
        at_least(1, evaluate_every=self.evaluate_every, save_every=self.save_every)
        at_least(1, validation_samples=self.validation_samples)
        if self.spike <= 0:
            raise UserError(f"--spike is {self.spike}: give more than 0")
