"""What must hold on a GPU: the CPU's results, a training that learns, and steps that never make the host wait."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dmlcsr.losses import PAPER_WEIGHTS, dml_loss
from dmlcsr.metrics import Counts, scores
from dmlcsr.model import DMLCSR
from dmlcsr.predict import Predictor, normalize
from dmlcsr.regulation import distillation_targets
from dmlcsr.schedule import learning_rate
from dmlcsr.taxonomy import CELEBAMASK_HQ
from tests.gpu.faces import NUM_CLASSES, Scale, Training, faces, noise

CPU = torch.device("cpu")


def distance(got: Tensor, expected: Tensor) -> float:
    """The norm of the difference as a fraction of the norm of `expected`."""
    got, expected = got.detach().cpu().double(), expected.double()
    return float((got - expected).norm() / expected.norm().clamp(min=1e-12))


@contextmanager
def strict_float32() -> Iterator[None]:
    """Convolutions without TF32, whose products have ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def network_parity(scale: Scale, device: torch.device) -> dict[str, float]:
    """Distances of the logits in float32, and in bf16, from those of the CPU in float32."""
    torch.manual_seed(0)
    network = DMLCSR(scale.card.architecture).eval()
    pixels = normalize(faces(0, 2, scale.size)[0], scale.card.preprocessing)
    with torch.no_grad(), strict_float32():
        expected = network(pixels)
        network.to(device)
        exact = network(pixels.to(device))
        with torch.autocast(device.type, torch.bfloat16):
            rounded = network(pixels.to(device))
    pairs = {"float32": exact, "bf16": rounded}
    found = {name: max(map(distance, tasks, expected)) for name, tasks in pairs.items()}
    assert found["float32"] < 1e-3, f"the network differs from the CPU: {found}"
    assert found["bf16"] < 0.1, f"the network in bf16 differs from float32: {found}"
    return found


def loss_parity(scale: Scale, device: torch.device) -> dict[str, float]:
    """Distances of loss terms and gradients from those of the CPU, with and without a teacher."""
    torch.manual_seed(0)
    _, label = faces(0, 2, scale.size)
    label[:, : scale.size // 8] = 255
    small = (scale.size + 3) // 4
    logits = [torch.randn(2, classes, small, small) for classes in (NUM_CLASSES, 2, NUM_CLASSES)]
    found = {}
    for name in ("labels", "teacher"):
        results = []
        for place in (CPU, device):
            parsing, binary, category = (task.to(place).requires_grad_() for task in logits)
            teacher = (parsing.detach().flip(0), binary.detach().flip(0), category.detach().flip(0))
            targets = distillation_targets(teacher, label.to(place), 0.25) if name == "teacher" else None
            terms = dml_loss((parsing, binary, category), label.to(place), PAPER_WEIGHTS, targets=targets)
            results.append([*terms, *torch.autograd.grad(terms.total, (parsing, binary, category))])
        found[name] = max(distance(got, expected.detach()) for expected, got in zip(*results, strict=True))
        assert found[name] < 1e-4, f"the loss differs from the CPU: {found}"
    return found


def predictor_parity(scale: Scale, device: torch.device) -> dict[str, float]:
    """Fractions of pixels to which device and CPU give the same class, with the network in bf16 on CUDA."""
    torch.manual_seed(0)
    parser = DMLCSR(scale.card.architecture).decoupled()
    canvases = faces(0, 2, scale.size)[0].numpy()
    sizes, found = [(200, 300), (97, 64)], {}
    for tta in (False, True):
        expected = Predictor(parser, scale.card, "cpu", tta).label_maps(canvases, sizes)
        got = Predictor(parser, scale.card, str(device), tta).label_maps(canvases, sizes)
        same = [(a == b).mean() for a, b in zip(expected, got, strict=True)]
        found["tta" if tta else "plain"] = float(min(same))
    assert min(found.values()) > 0.9, f"label maps differ from the CPU: {found}"
    return found


def score_of_training(scale: Scale, device: torch.device, num_faces: int, num_epochs: int, *, bf16: bool) -> float:
    """The mean F1, 0 to 1, on faces that a training from random weights has not seen."""
    training = Training(scale, device, bf16=bf16, adamw=True)
    num_steps = num_faces // scale.batch_size
    for epoch in range(num_epochs):
        images, labels = faces(0, num_faces, scale.size, epoch)
        order = torch.randperm(num_faces, generator=torch.Generator().manual_seed(epoch))
        for step, chosen in enumerate(order[: num_steps * scale.batch_size].view(num_steps, -1)):
            rate = learning_rate(
                epoch + step / num_steps, lr=2e-3, warmup_epochs=1, csr_start=num_epochs, cycle_epochs=1
            )
            training.optimizer.param_groups[0]["lr"] = rate
            training.step(images[chosen].to(device), labels[chosen].to(device))
    assert not training.finite.failed(), "the gradient was not finite"
    predictor = Predictor(training.network.decoupled(), scale.card, str(device))
    counts = Counts(NUM_CLASSES)
    images, labels = faces(num_faces, max(2, num_faces // 5), scale.size)
    for image, label in zip(images, labels, strict=True):
        counts.add(label.numpy(), predictor.label_map(image.numpy()))
    return scores(counts, CELEBAMASK_HQ).mean_f1 or 0.0


def training_parity(scale: Scale, device: torch.device, num_faces: int, num_epochs: int) -> dict[str, float]:
    """The scores of a training in bf16 on the device, and of the same one in float32 on the CPU."""
    found = {
        "device_bf16": score_of_training(scale, device, num_faces, num_epochs, bf16=True),
        "cpu_float32": score_of_training(scale, CPU, num_faces, num_epochs, bf16=False),
    }
    assert found["device_bf16"] > found["cpu_float32"] - 0.05, f"bf16 learns less than the CPU: {found}"
    return found


def no_host_waits(scale: Scale, device: torch.device) -> dict[str, int]:
    """Makes steps in which PyTorch raises an error for whatever makes the host wait for the device."""
    training, (image, label) = Training(scale, device, bf16=True), noise(scale, device)
    training.step(image, label)  # cuDNN chooses its kernels
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(scale.num_steps):
            training.step(image, label)
            assert not training.finite.failed(steps_ago=1)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert not training.finite.failed(), "the gradient was not finite"
    return {"steps": scale.num_steps}
