"""The processes and devices of a training, and how it uses CUDA devices."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from pipelines.config.base import Config


class WorkersConfig(Config):
    """The processes and devices of the training. A run may continue on others."""

    num_workers: PositiveInt = 1
    """Number of training workers. Each is one process, with one GPU if `use_gpu` is set."""
    use_gpu: bool = False
    """Train on CUDA devices with bf16 autocast; the section `gpu` says how."""
    cpus_per_worker: PositiveInt | Literal["auto"] = "auto"
    """Number of CPUs that Ray reserves for each training worker. `auto`: without GPU its share of the node less its
    decode tasks; with a GPU 2, or 1 if its share has fewer than 4."""
    decode_tasks: PositiveInt | Literal["auto"] = "auto"
    """Number of image-decoding tasks that may run at the same time for each training worker; each takes one CPU.
    `auto`: 1 without GPU, where decoding takes less than a quarter of a core; with a GPU the rest of its share."""
    threads: PositiveInt | Literal["auto"] = "auto"
    """Number of torch threads of each training worker. `auto`: `cpus_per_worker` if that is given or there is a GPU;
    otherwise every core of its share of the node. The number changes the last digits of all weights, so a run keeps
    it."""
    max_failures: NonNegativeInt = 3
    """Number of times that workers lost without notice are replaced before the run fails. `train` counts anew after an
    epoch that was done in between; announced losses, such as reclaimed machines, are not counted."""

    @property
    def are_settled(self) -> bool:
        """True if no number is left to choose."""
        return "auto" not in (self.cpus_per_worker, self.decode_tasks, self.threads)

    def at_least(self) -> tuple[int, int]:
        """The CPUs of a worker, and its decode tasks; 1 for each that is to be chosen."""
        cpus, tasks = ((1 if number == "auto" else number) for number in (self.cpus_per_worker, self.decode_tasks))
        return cpus, tasks


class GpuConfig(Config):
    """The training on CUDA devices. Nothing here has an effect without `workers.use_gpu`."""

    sync_batch_norm: bool | None = None
    """Compute the BatchNorm statistics of a step over the images of all workers (SyncBatchNorm). null: if a micro-batch
    of one worker has fewer than 16 images."""
    bf16_gradients: bool = False
    """Send gradients between workers in bf16, half as many bytes: for slow networks between machines."""
    compile: bool = False
    """Compile the network with `torch.compile`. The first step then takes minutes; it pays in long trainings."""
    tf32: bool = True
    """Let the convolutions that remain in float32 compute with TF32. The loss always uses float32."""
