"""The default network: where it looks, and what must not matter to it."""

from __future__ import annotations

import pytest
import torch

from embedder.model.unified import UnifiedEmbedding, create_unified

SIZE = 96


@pytest.fixture
def network() -> UnifiedEmbedding:
    """As after training: the localizer has an opinion, the norms have statistics."""
    torch.manual_seed(7)
    network = create_unified("pinnet", bits=256, input_size=SIZE)
    torch.nn.init.normal_(network.backbone.localizer.head.weight, std=0.05)
    network.train()
    for _ in range(3):
        network(torch.rand(8, 3, SIZE, SIZE))
    return network.eval()


def test_untrained_it_looks_at_the_whole_picture() -> None:
    network = create_unified("pinnet", bits=256, input_size=SIZE).eval()
    _, box_BL4 = network.embed_and_locate(torch.rand(2, 3, SIZE, SIZE))
    assert box_BL4 is not None
    # Every place says "half a picture away on every side"; the mean over all places is the picture.
    assert (box_BL4[:, 0, :2] < 0.01).all()
    assert (box_BL4[:, 0, 2:] > 0.99).all()


@torch.no_grad()
def test_a_picture_and_its_mirror_image_have_the_same_embedding(network: UnifiedEmbedding) -> None:
    x_BCHW = torch.rand(3, 3, SIZE, SIZE)
    plain_BD, box_BL4 = network.embed_and_locate(x_BCHW)
    mirrored_BD, mirrored_BL4 = network.embed_and_locate(x_BCHW.flip(3))
    assert box_BL4 is not None
    assert mirrored_BL4 is not None
    assert torch.allclose(plain_BD, mirrored_BD, atol=1e-3)
    assert torch.allclose(mirrored_BL4[:, :, 0], 1 - box_BL4[:, :, 2], atol=1e-4)
    assert not torch.allclose(box_BL4[:, 0, 0], 1 - box_BL4[:, 0, 2], atol=1e-3), "the boxes say nothing"


@torch.no_grad()
def test_a_code_does_not_depend_on_the_others_in_its_batch(network: UnifiedEmbedding) -> None:
    x_BCHW = torch.rand(5, 3, SIZE, SIZE)
    together_BD = network(x_BCHW)
    alone_BD = torch.cat([network(x_BCHW[i : i + 1]) for i in range(5)])
    assert torch.equal(together_BD > 0, alone_BD > 0)


@torch.no_grad()
def test_fused_it_computes_the_same(network: UnifiedEmbedding) -> None:
    x_BCHW = torch.rand(4, 3, SIZE, SIZE)
    before_BD = network(x_BCHW)
    network.fuse()
    assert torch.allclose(network(x_BCHW), before_BD, atol=1e-3)
