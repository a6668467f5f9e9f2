"""Time of the Lovasz loss and of the whole loss, forward and backward, against a straightforward implementation.

The baseline is written like the usual reference code for this method: it upsamples with interpolate, calls torch.sort
once per class and counts class weights on the host. Both start from the same stride-4 logits of 19 classes. They are
timed alternately, so that other load on the machine affects both. Run from the repository root:

    python -m pipelines.bench.loss [--repeats 7] [--quick]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dmlcsr.losses import PAPER_WEIGHTS, dml_loss
from dmlcsr.losses.softmax_terms import weighted_terms

CLASSES, IGNORE = 19, 255
SIZES = ((2, 473), (8, 128))


def baseline_lovasz(logits: Tensor, label: Tensor) -> Tensor:
    """The Lovasz-softmax of logits at label size, computed class by class."""
    valid = label.flatten() != IGNORE
    probs = F.softmax(logits, 1).permute(0, 2, 3, 1).reshape(-1, logits.shape[1])[valid]
    labels, losses = label.flatten()[valid], []
    for k in range(logits.shape[1]):
        foreground = (labels == k).float()
        if foreground.sum() == 0:
            continue
        errors, order = torch.sort((foreground - probs[:, k]).abs(), descending=True)
        sorted_foreground = foreground[order]
        total = sorted_foreground.sum()
        union = total + (1 - sorted_foreground).cumsum(0)
        jaccard = 1 - (total - sorted_foreground.cumsum(0)) / union
        losses.append(errors @ torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]]))
    return torch.stack(losses).mean()


def baseline_edges(label: Tensor) -> tuple[Tensor, Tensor]:
    """The binary and category edges, computed by max pooling."""
    values, ignored = label[:, None].float(), label[:, None] == IGNORE
    largest = F.max_pool2d(values.masked_fill(ignored, -1), 3, 1, 1)
    smallest = -F.max_pool2d(-values.masked_fill(ignored, 300), 3, 1, 1)
    binary = ((largest > smallest) & (largest >= 0))[:, 0].long()
    ignored = ignored[:, 0]
    return binary.masked_fill(ignored, IGNORE), (label.long() * binary).masked_fill(ignored, IGNORE)


def host_counts(label: Tensor, num_classes: int) -> Tensor:
    return torch.tensor([float((label == k).sum().item()) for k in range(num_classes)])


def baseline_attention(logits: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    nll = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
    means = [image[chosen].mean() if chosen.any() else image.sum() * 0 for image, chosen in zip(nll, mask, strict=True)]
    return torch.stack(means).mean()


def baseline_loss(logits: tuple[Tensor, Tensor, Tensor], label: Tensor) -> Tensor:
    """Computes the total with the weights of the paper."""
    parsing, binary_logits, category_logits = (resize(task, label) for task in logits)
    target, (binary, category) = label.long(), baseline_edges(label)
    counts = host_counts(binary, 2)
    binary_loss = F.cross_entropy(binary_logits, binary, counts.flip(0) / counts.sum(), ignore_index=IGNORE)
    counts = host_counts(category, CLASSES)
    category_loss = F.cross_entropy(category_logits, category, 1 - counts / counts.sum(), ignore_index=IGNORE)
    ce = F.cross_entropy(parsing, target, ignore_index=IGNORE)
    attention = baseline_attention(parsing, target, binary == 1)
    inner = baseline_attention(parsing, target, (category > 0) & (category != IGNORE))
    parsing_loss = 0.5 * baseline_lovasz(parsing, target) + 0.5 * ce
    return parsing_loss + binary_loss + 0.1 * category_loss + 4 * attention + inner


def resize(logits: Tensor, label: Tensor) -> Tensor:
    return F.interpolate(logits, label.shape[1:], mode="bilinear", align_corners=True)


def our_lovasz(logits: Tensor, label: Tensor) -> Tensor:
    return weighted_terms(logits, label, [], lovasz_weight=1.0)[0]


def blob_labels(batch: int, size: int) -> Tensor:
    """(B, size, size) uint8 labels: smooth regions, a few large classes, many small ones, and an ignored corner."""
    field = F.interpolate(torch.randn(batch, CLASSES, 9, 9), (size, size), mode="bicubic")
    label = (field - torch.linspace(-1.0, 1.2, CLASSES)[:, None, None]).argmax(1).to(torch.uint8)
    label[:, : size // 10, : size // 8] = IGNORE
    return label


def make_logits(label: Tensor, trained: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The stride-4 logits of the three tasks: noise; if `trained`, plus a margin of N(6, 3) on the right class."""
    batch, size = label.shape[0], (label.shape[1] + 3) // 4
    small = F.interpolate(label[:, None].float(), (size, size))[:, 0].long().clamp(max=CLASSES - 1)
    logits = [torch.randn(batch, channels, size, size) for channels in (CLASSES, 2, CLASSES)]
    if trained:
        margin = 6 + 3 * torch.randn(batch, size, size)
        logits[0] += F.one_hot(small, CLASSES).permute(0, 3, 1, 2) * margin[:, None]
    return logits[0].requires_grad_(), logits[1].requires_grad_(), logits[2].requires_grad_()


def measure(calls: list[Callable[[], Tensor]], repeats: int) -> list[float]:
    """The median milliseconds of each call with its backward pass. The calls alternate."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call().backward()
            if repeat:
                taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="only 8 x 128 x 128")
    args = parser.parse_args()
    torch.manual_seed(0)
    print("threads size        logits   lovasz ms (baseline, ratio)   whole loss ms (baseline, ratio)")
    ratios = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        for batch, size in SIZES[1:] if args.quick else SIZES:
            for trained in (False, True):
                ratios.append(report(threads, batch, size, trained, args.repeats))
    print(json.dumps({"ratio": max(ratios), "all": ratios}))


def report(threads: int, batch: int, size: int, trained: bool, repeats: int) -> float:
    """Prints one line of the table and returns the ratio for the whole loss."""
    label = blob_labels(batch, size)
    logits = make_logits(label, trained)
    target = label.long()
    calls: list[Callable[[], Tensor]] = [
        lambda: our_lovasz(logits[0], label),
        lambda: baseline_lovasz(resize(logits[0], label), target),
        lambda: dml_loss(logits, label, PAPER_WEIGHTS).total,
        lambda: baseline_loss(logits, label),
    ]
    for ours, reference in ((calls[0], calls[1]), (calls[2], calls[3])):
        torch.testing.assert_close(ours(), reference(), rtol=1e-4, atol=1e-5)
    lovasz, lovasz_base, whole, whole_base = measure(calls, repeats)
    print(
        f"{threads:7} {f'{batch}x{size}x{size}':11} {'trained' if trained else 'random':8}"
        f" {lovasz:8.1f} ({lovasz_base:7.1f}, {lovasz / lovasz_base:.3f})"
        f"    {whole:9.1f} ({whole_base:7.1f}, {whole / whole_base:.3f})",
        flush=True,
    )
    return whole / whole_base


if __name__ == "__main__":
    main()
