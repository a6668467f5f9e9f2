"""The network: parity with the authors', shapes, gradients, small inputs, decoupling, export."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from math import prod, sqrt

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from dmlcsr.model import DMLCSR, Architecture, FaceParser
from dmlcsr.model.ddgcn import DDGCN
from dmlcsr.model.layers import BatchNorm
from dmlcsr.pretrained import official_architecture, official_to_ours
from tests.support.commands import DATA

TINY = Architecture(num_classes=5, depth=18, width=0.125)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Maps this small gain nothing from threads, and lose much where other processes hold the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def official_value(key: str, shape: list[int]) -> npt.NDArray[np.generic]:
    """The value of one of the authors' tensors in the reference forward pass."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if key.endswith("running_mean"):
        return rng.normal(0, 0.1, shape)
    if key.endswith(("gamma", "gamma1")):
        return np.full(shape, 0.5)
    if len(shape) >= 3:
        return rng.normal(0, sqrt(1 / prod(shape[1:])), shape)
    if key.endswith("weight"):
        return rng.uniform(0.1, 0.5, shape) * np.where(rng.random(shape) < 0.1, -1, 1)
    return rng.normal(0, 0.1, shape)


@pytest.fixture(scope="module")
def official_state() -> dict[str, Tensor]:
    shapes = json.loads((DATA / "official_state_dict_c11.json").read_text())
    return {key: torch.from_numpy(np.asarray(official_value(key, shape))) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def official_network(official_state: dict[str, Tensor]) -> Iterator[DMLCSR]:
    architecture = official_architecture(official_state)
    assert architecture == Architecture(num_classes=11, depth=101, residual_activation=True)
    with torch.device("meta"):
        network = DMLCSR(architecture)
    network.load_state_dict(official_to_ours(official_state), strict=True, assign=True)
    yield network.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_official_weights_give_the_authors_logits(
    official_network: DMLCSR, dtype: torch.dtype, tolerance: float
) -> None:
    golden = np.load(DATA / "official_forward_c11.npz")
    images = np.random.default_rng(int(golden["seed"])).normal(0, 1, tuple(golden["input_shape"]))
    network = official_network.to(dtype)
    with torch.no_grad():
        logits = network(torch.from_numpy(images).to(dtype))
    for task, ours in logits._asdict().items():
        reference = torch.from_numpy(golden[task])
        assert ours.shape == reference.shape
        assert (ours.double() - reference).norm() / reference.norm() <= tolerance, task


def test_every_official_key_is_used_once(official_state: dict[str, Tensor]) -> None:
    ours = official_to_ours(official_state)
    counters = [key for key in ours if key.endswith("num_batches_tracked")]
    official_counters = [key for key in official_state if key.endswith("num_batches_tracked")]
    assert len(ours) - len(counters) == len(official_state) - len(official_counters)
    assert not any(key.startswith(("layer", "edge_layer", "conv", "bn")) for key in ours)


def test_only_the_norms_with_activation_use_the_absolute_weight() -> None:
    weight = torch.tensor([-0.5, 0.25])
    keys = ("bn1.weight", "context.dualgcn.bn_wg.weight", "context.dualgcn.bn_adj.weight", "layer6.conv4.bias")
    ours = official_to_ours(dict.fromkeys(keys, weight))
    assert torch.equal(ours["encoder.stem.0.1.weight"], weight.abs() + 1e-5)
    for key in ("context.feature.mix_norm.weight", "context.feature.adjacency_norm.weight"):
        assert torch.equal(ours[key], weight)
    assert torch.equal(ours["parsing_head.classifier.bias"], weight)


def test_parameter_counts_are_those_of_the_paper() -> None:
    architecture = Architecture(num_classes=19)
    with torch.device("meta"):
        parser, network = FaceParser(architecture), DMLCSR(architecture)
    assert round(sum(p.numel() for p in parser.parameters()) / 1e6, 2) == 68.06
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 68.57


def test_map_sizes_at_473_pixels() -> None:
    with torch.device("meta"):
        network = DMLCSR(Architecture(num_classes=19)).eval()
        features = network.encoder(torch.empty(1, 3, 473, 473))
        logits = network(torch.empty(1, 3, 473, 473))
    assert [tuple(x.shape[1:]) for x in features] == [
        (256, 119, 119), (512, 60, 60), (1024, 60, 60), (2048, 60, 60),
    ]  # fmt: skip
    assert [tuple(x.shape[1:]) for x in logits] == [(19, 119, 119), (2, 119, 119), (19, 119, 119)]


@pytest.mark.parametrize("residual_activation", [False, True])
@pytest.mark.parametrize(("depth", "width"), [(18, 0.25), (18, 0.5), (34, 0.25), (50, 0.25), (101, 0.125)])
def test_every_depth_and_width_trains(depth: int, width: float, residual_activation: bool) -> None:
    torch.manual_seed(0)
    architecture = Architecture(num_classes=4, depth=depth, width=width, residual_activation=residual_activation)
    network = DMLCSR(architecture)
    images = torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        features = network.eval().encoder(images)
    assert [tuple(x.shape[2:]) for x in features] == [(16, 12), (8, 6), (8, 6), (8, 6)]
    assert [x.shape[1] for x in features] == network.encoder.channels
    logits = network.train()(images)
    assert [tuple(x.shape) for x in logits] == [(2, 4, 16, 12), (2, 2, 16, 12), (2, 4, 16, 12)]
    torch.stack([x.square().mean() for x in logits]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("stem", ["deep32", "conv7"])
@pytest.mark.parametrize("depth", [18, 50])
def test_every_stem_keeps_the_sizes_of_the_maps_and_trains(stem: str, depth: int) -> None:
    torch.manual_seed(0)
    network, paper = (DMLCSR(replace(TINY, stem=name, depth=depth)) for name in (stem, "deep"))
    images = torch.randn(2, 3, 57, 91)
    with torch.no_grad():
        sizes, wanted = ([x.shape for x in each.eval().encoder(images)] for each in (network, paper))
    assert sizes == wanted
    torch.stack([x.square().mean() for x in network.train()(images)]).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_graph_parameters_get_gradients_once_gamma_is_not_zero() -> None:
    torch.manual_seed(0)
    network = DMLCSR(TINY)
    assert isinstance(network.context, DDGCN)
    graphs = (network.context.spatial, network.context.feature)
    for graph in graphs:
        assert graph.gamma.item() == 0
        nn.init.ones_(graph.gamma)
    network(torch.randn(2, 3, 64, 64)).parsing.square().mean().backward()
    for graph in graphs:
        for name, parameter in graph.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (32, 32), (64, 64), (33, 57)])
def test_a_batch_of_one_small_image_trains(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = DMLCSR(TINY).train()
    logits = network(torch.randn(1, 3, *size))
    torch.stack([x.square().mean() for x in logits]).sum().backward()
    assert all(x.isfinite().all() for x in logits)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_one_value_per_channel_is_normalised_by_the_running_statistics() -> None:
    norm = BatchNorm(2)
    norm.running_mean, norm.running_var = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0])
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    out = norm.train()(torch.tensor([[3.0, 5.0]]).reshape(1, 2, 1, 1))
    torch.testing.assert_close(out.flatten(), torch.ones(2), atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 5)])
def test_batch_norm_of_many_values_is_pytorchs(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    theirs = nn.BatchNorm2d(3)(x.reshape(*shape, *[1] * (4 - len(shape)))).reshape(shape)
    torch.testing.assert_close(BatchNorm(3)(x), theirs)
    with pytest.raises(ValueError, match="takes"):
        BatchNorm(3)(torch.zeros(3))


def test_conversion_to_sync_batch_norm_keeps_keys_and_logits() -> None:
    torch.manual_seed(0)
    network, images = DMLCSR(TINY).eval(), torch.randn(1, 3, 40, 40)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(DMLCSR(TINY)).eval()
    converted.load_state_dict(network.state_dict())
    assert not any(type(module) is BatchNorm for module in converted.modules())
    with torch.no_grad():
        for ours, theirs in zip(network(images), converted(images), strict=True):
            assert torch.equal(ours, theirs)


def test_decoupled_network_is_bit_exact_and_has_no_edge_parameter() -> None:
    torch.manual_seed(0)
    network, images = DMLCSR(TINY), torch.randn(2, 3, 65, 49)
    network(images)  # moves the running statistics off their start
    random_state = torch.get_rng_state()
    parser = network.decoupled()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert network.training and not parser.training
    with torch.no_grad():
        assert torch.equal(parser(images), network.eval()(images).parsing)
    assert set(parser.state_dict()) == {k for k in network.state_dict() if not k.startswith("edge_head.")}
    assert not any("edge" in name for name, _ in parser.named_parameters())
    nn.init.zeros_(parser.parsing_head.classifier.weight)
    assert network.parsing_head.classifier.weight.abs().sum() > 0


def test_channels_last_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    parser, images = FaceParser(TINY).eval(), torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        expected = parser(images)
        parser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        got = parser(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_the_parser_exports() -> None:
    torch.manual_seed(0)
    parser, images = FaceParser(TINY).eval(), torch.randn(2, 3, 64, 64)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(parser, (images,), dynamic_shapes=({0: batch},))
    other = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(other), parser(other))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"depth": 152}, "depth"),
        ({"num_classes": 1}, "num_classes"),
        ({"num_classes": 256}, "num_classes"),
        ({"width": 0.0}, "width"),
        ({"width": float("nan")}, "width"),
        ({"width": 100.0}, "width"),
        ({"stem": "conv9"}, "stem"),
    ],
)
def test_impossible_architectures_are_refused(changes: dict[str, float | str], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be"):
        Architecture(**({"num_classes": 11} | changes))  # type: ignore[arg-type]


def test_channel_counts_stay_multiples_of_eight() -> None:
    narrow = Architecture(num_classes=11, width=0.25)
    assert [narrow.channels(count) for count in (48, 64, 512)] == [16, 16, 128]
    assert Architecture(num_classes=11, width=0.01).channels(64) == 8
    assert Architecture(num_classes=11).channels(48) == 48


def test_without_the_graphs_their_last_convolution_remains() -> None:
    whole, bare = (FaceParser(replace(TINY, ddgcn=ddgcn)) for ddgcn in (True, False))
    wanted, got = whole.context.output[0], bare.context.output[0]
    assert got.kernel_size == wanted.kernel_size == (3, 3) and got.padding == wanted.padding
    assert got.out_channels == wanted.out_channels and got.in_channels == whole.encoder.channels[3]
    rest = {name: value.shape for name, value in whole.state_dict().items() if not name.startswith("context.")}
    assert rest == {name: value.shape for name, value in bare.state_dict().items() if not name.startswith("context.")}
