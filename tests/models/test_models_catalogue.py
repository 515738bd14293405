"""Networks by name: what can be asked for, what comes back, and what is said when it does not exist."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from separable import models
from separable.errors import ModelError, SpecError

# What a network for a task answers to 2 images of its own size, for 7 classes; all others classify.
ANSWERS = {
    "lraspp": [(2, 7, 520, 520)],
    "deeplabv3plus": [(2, 7, 513, 513)],
    "ssdlite320": [(2, 3234, 4), (2, 3234, 7)],
}


@pytest.mark.parametrize("name", models.NAMES)
def test_every_name_is_also_a_function_and_has_an_example_that_fits(name: str) -> None:
    assert callable(getattr(models, name))
    with torch.device("meta"):
        model = models.build(name, classes=7).eval()
        answer = tree_leaves(model(models.example(name, batch=2).to("meta")))
    assert [tensor.shape for tensor in answer] == ANSWERS.get(name.split("_")[0], [(2, 7)])


@pytest.mark.parametrize(
    ("wrong", "offered"),
    [("resnet5", "resnet50"), ("ResNet-18", "resnet18"), ("mobilenetv2", "mobilenet_v2"), ("vgg", "vgg16")],
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, offered: str) -> None:
    with pytest.raises(ModelError, match=rf"got '{wrong}'; .*Did you mean .*{offered}"):
        models.build(wrong)


def test_a_name_like_no_other_is_answered_with_the_list() -> None:
    with pytest.raises(ModelError, match="expected one of mobilenet_v1") as caught:
        models.build("transformer_xl_huge")
    assert "Did you mean" not in str(caught.value)


def test_an_option_that_a_network_does_not_have_is_named() -> None:
    with pytest.raises(
        ModelError, match=r"models.build\('vgg16'\): got option 'width'; expected one of classes, batch_"
    ):
        models.build("vgg16", width=0.5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v1", {"width": 0}),
        ("mobilenet_v2", {"width": -1.0}),
        ("mobilenet_v2", {"classes": 0}),
        ("resnet18", {"classes": -3}),
        ("resnet_small", {"width": 0}),
        ("resnet_small", {"in_channels": 0}),
    ],
)
def test_sizes_that_make_no_network_are_refused(name: str, options: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="positive"):
        models.build(name, **options)


def test_an_example_is_the_same_each_time_and_takes_batch_and_resolution() -> None:
    assert models.example("resnet18").shape == (1, 3, 224, 224)
    first, second = (models.example("resnet_small", batch=2, resolution=48) for _ in range(2))
    assert first.shape == (2, 1, 48, 48)
    assert torch.equal(first, second)
    assert torch.equal(first, models.example(models.resnet_small(), batch=2, resolution=48))


def test_a_model_from_elsewhere_has_no_example() -> None:
    with pytest.raises(ModelError, match="a Linear without input_shape"):
        models.example(torch.nn.Linear(3, 4))


def test_the_seed_of_torch_decides_the_weights() -> None:
    built = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        built.append(models.resnet_small(blocks=1).conv1.weight)
    assert torch.equal(built[0], built[1])
    assert not torch.equal(built[0], built[2])


def test_the_first_weights_are_those_that_keep_a_signals_mean_square() -> None:
    filters = models.mobilenet_v1().features[3].depthwise.weight.detach()
    torch.testing.assert_close(filters.square().sum(dim=(1, 2, 3)), torch.full((128,), 2.0))


def test_the_shallow_variant_lacks_the_five_blocks_at_14_by_14() -> None:
    with torch.device("meta"):
        full, shallow = models.mobilenet_v1(), models.mobilenet_v1(shallow=True)
    assert len(full.features) - len(shallow.features) == 5
