"""Extraction, empty-shape rule and SDF regulariser on a GPU against the CPU, on the grid of the published models."""

import copy
import warnings

import pytest
import torch

from get3d_model.isosurface.empty_shape import repair_empty_shapes
from get3d_model.isosurface.grid import bcc_grid
from get3d_model.isosurface.marching_tets import MarchingTetrahedra
from get3d_model.losses.sdf import sdf_sign_cross_entropy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


BATCHES = pytest.mark.parametrize(
    ("grids", "batch"), [("extractors", 1), ("extractors", 3), ("small_extractors", 34)]
)


@pytest.fixture(scope="module")
def extractors():
    """(on the CPU, on the GPU)."""
    extractor = MarchingTetrahedra(bcc_grid(90, 1.0))
    return extractor, copy.deepcopy(extractor).cuda()


@pytest.fixture(scope="module")
def small_extractors():
    """The same on a grid small enough for batches of more shapes than a word has bits."""
    extractor = MarchingTetrahedra(bcc_grid(16, 1.0))
    return extractor, copy.deepcopy(extractor).cuda()


def fields(extractor, batch, seed=0):
    """SDFs of shapes of different sizes, the second empty, the last of noise alone; deformations of up to a cell."""
    random = torch.Generator().manual_seed(seed)
    vertices_N3 = extractor.grid.vertices_N3
    radius_B1 = torch.linspace(0.2, 0.42, batch)[:, None]
    sdf_BN = radius_B1 - vertices_N3.norm(dim=-1)
    sdf_BN += 0.01 * torch.randn(sdf_BN.shape, generator=random)
    if batch > 1:
        sdf_BN[1] = -sdf_BN[1].abs() - 0.01
        sdf_BN[-1] = torch.randn(sdf_BN[-1].shape, generator=random)
    sdf_BN[0, ::1000] = 0.0
    deform_BN3 = (torch.rand(*sdf_BN.shape, 3, generator=random) - 0.5) * 2 / extractor.grid.resolution
    return sdf_BN, deform_BN3


def relative(ours, reference):
    return float((ours.detach().cpu() - reference.detach()).abs().max() / reference.detach().abs().max())


def synchronisations(function):
    """How often `function` waits for the GPU; kernels are compiled before."""
    function()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(item.message) for item in caught)


@BATCHES
def test_extraction_equals_the_cpu(request, grids, batch):
    extractors = request.getfixturevalue(grids)
    sdf_BN, deform_BN3 = fields(extractors[0], batch)
    meshes, gradients = [], []
    for extractor in extractors:
        device = extractor.grid.vertices_N3.device
        sdf = sdf_BN.to(device).requires_grad_(True)
        deform = deform_BN3.to(device).requires_grad_(True)
        packed = extractor(sdf, deform)
        probe = torch.randn(packed.vertices_V3.shape, generator=torch.Generator().manual_seed(1)).to(device)
        meshes.append(packed)
        gradients.append(torch.autograd.grad((packed.vertices_V3 * probe).sum(), (sdf, deform)))
    reference, ours = meshes
    assert ours.faces_F3.dtype == torch.int32
    assert torch.equal(ours.vertex_ranges_B2, reference.vertex_ranges_B2)
    assert torch.equal(ours.face_ranges_B2, reference.face_ranges_B2)
    assert torch.equal(ours.faces_F3.cpu(), reference.faces_F3)
    assert (ours.vertices_V3.detach().cpu() - reference.vertices_V3.detach()).abs().max() < 1e-6
    for composed, fused in zip(*gradients, strict=True):
        assert relative(fused, composed) < 1e-5


def test_surfaces_that_outgrow_the_room_of_the_last(extractors):
    reference, ours = extractors[0], MarchingTetrahedra(extractors[1].grid).cuda()
    sdf_BN, deform_BN3 = fields(reference, 3)
    small_BN = sdf_BN - sdf_BN.amax(dim=1, keepdim=True) * 0.9
    for values_BN in (small_BN, sdf_BN, small_BN):
        expected, packed = reference(values_BN, deform_BN3), ours(values_BN.cuda(), deform_BN3.cuda())
        assert torch.equal(packed.faces_F3.cpu(), expected.faces_F3)
        assert torch.equal(packed.vertex_ranges_B2, expected.vertex_ranges_B2)
        assert (packed.vertices_V3.cpu() - expected.vertices_V3).abs().max() < 1e-6
    assert len(reference(sdf_BN, deform_BN3).faces_F3) > 2 * len(expected.faces_F3) > 0


def test_a_batch_of_empty_shapes(extractors):
    extractor = extractors[1]
    sdf_BN = torch.full((2, len(extractor.grid.vertices_N3)), -1.0, device="cuda", requires_grad=True)
    packed = extractor(sdf_BN, torch.zeros(*sdf_BN.shape, 3, device="cuda"))
    assert packed.vertices_V3.shape == packed.faces_F3.shape == (0, 3)
    assert packed.vertex_ranges_B2.tolist() == packed.face_ranges_B2.tolist() == [[0, 0], [0, 0]]
    packed.vertices_V3.sum().backward()
    assert float(sdf_BN.grad.abs().sum()) == 0


@BATCHES
def test_regulariser_equals_the_cpu(request, grids, batch):
    extractors = request.getfixturevalue(grids)
    sdf_BN = fields(extractors[0], batch)[0] * 3.0
    values, gradients = [], []
    for extractor in extractors:
        sdf = sdf_BN.to(extractor.grid.vertices_N3.device).requires_grad_(True)
        loss = sdf_sign_cross_entropy(sdf, extractor.grid.edges_E2)
        values.append(loss.detach().cpu())
        gradients.append(torch.autograd.grad(2.0 * loss, sdf)[0])
    assert values[1].item() == pytest.approx(values[0].item(), rel=1e-5)
    assert relative(gradients[1], gradients[0]) < 1e-5


def test_empty_shape_rule_equals_the_cpu(extractors):
    sdf_BN, deform_BN3 = fields(extractors[0], 3)
    random = torch.Generator().manual_seed(2)
    probes = [torch.randn(x.shape, generator=random) for x in (sdf_BN, deform_BN3, sdf_BN[:, 0])]
    outputs, gradients = [], []
    for extractor in extractors:
        device = extractor.grid.vertices_N3.device
        sdf = sdf_BN.to(device).requires_grad_(True)
        deform = deform_BN3.to(device).requires_grad_(True)
        *repaired, empty_B, pull_B = repair_empty_shapes(sdf, deform, extractor.grid)
        assert empty_B.tolist() == [False, True, False]
        total = sum((x * p.to(device)).sum() for x, p in zip((*repaired, pull_B), probes, strict=True))
        outputs.append((*repaired, pull_B))
        gradients.append(torch.autograd.grad(total, (sdf, deform)))
    for composed, fused in zip(*outputs, strict=True):
        assert relative(fused, composed) < 1e-6
    for composed, fused in zip(*gradients, strict=True):
        assert relative(fused, composed) < 1e-6


def test_extraction_waits_once_and_the_rest_never(extractors):
    extractor = extractors[1]
    sdf, deform = (x.cuda().requires_grad_(True) for x in fields(extractors[0], 3))

    def extract():
        extractor(sdf, deform).vertices_V3.sum().backward()

    def regularise():
        repaired, _, _, pull_B = repair_empty_shapes(sdf, deform, extractor.grid)
        (sdf_sign_cross_entropy(repaired, extractor.grid.edges_E2) + pull_B.sum()).backward()

    # The one wait is for an event, which torch does not count.
    assert synchronisations(extract) == 0
    assert synchronisations(regularise) == 0


def test_rule_and_regulariser_replay_as_a_cuda_graph(extractors):
    grid = extractors[1].grid
    first, second = (fields(extractors[0], 3, seed) for seed in (0, 1))
    sdf, deform = (x.cuda().requires_grad_(True) for x in first)

    def run():
        repaired, moved, _, pull_B = repair_empty_shapes(sdf, deform, grid)
        total = sdf_sign_cross_entropy(repaired, grid.edges_E2) + pull_B.sum() + moved.square().sum()
        return total.detach(), *torch.autograd.grad(total, (sdf, deform))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        sdf.copy_(second[0])
        deform.copy_(second[1])
    graph.replay()
    for replayed, expected in zip(captured, run(), strict=True):
        assert relative(replayed, expected.cpu()) < 1e-5
