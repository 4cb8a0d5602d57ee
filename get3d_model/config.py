"""The configuration: frozen dataclasses, each field documented, each value checked where it is set. The sections
`cameras` and `evaluation` have files of their own, `camera_settings.py` and `evaluation_settings.py`.

A params file is YAML with one section per dataclass of `Config`. Fields without an entry keep the default shown
here, which is the published setting for ShapeNet cars at 1024. `load_config` rejects unknown keys (naming the
nearest valid one), wrong types and values out of range with one `InputError` line.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from get3d_model.camera_settings import CameraConfig
from get3d_model.errors import InputError, require
from get3d_model.evaluation_settings import EvaluationConfig
from get3d_model.limits import check_psi, check_seed, check_texture_resolution
from get3d_model.settings import read_yaml, settings_from_dict

CONFIG_DIR = Path(__file__).parent / "configs"
GENERATORS = ("unified", "separate")
ISOSURFACES = ("dmtet", "flexicubes")


def _power_of_two(value: int, low: int) -> bool:
    return value >= low and value & (value - 1) == 0


@dataclass(frozen=True)
class MeshesConfig:
    """Where the training meshes are."""

    path: str = "data/meshes"
    """Folder with .glb/.gltf/.obj/.ply files; `data/meshes` is where `get3d synth` puts its vehicles."""
    synth_count: int = 64
    """How many vehicles `get3d synth` makes."""
    synth_seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.synth_seed)
        require(self.synth_count >= 2, f"synth_count must be at least 2, not {self.synth_count}")


@dataclass(frozen=True)
class RenderConfig:
    """How the data set is rendered from the meshes."""

    backend: str = "raster"
    """raster: our own renderer. blender: the recipe of the published data sets, where Blender is installed."""
    engine: str = "cycles"
    """Of Blender: cycles, or eevee, which needs a GPU."""
    samples: int = 32
    """Of Blender, per pixel."""
    light: str = "studio"
    """Of the raster backend: studio, area, flat, overcast, sunny, sunset, or an equirect picture (docs/data.md)."""
    views: int = 24
    """Views per shape."""
    resolution: int = 1024
    supersample: int = 4
    """Samples per pixel along each side."""
    scale: float = 0.8
    """Longest side of a normalised mesh, world units (the camera orbit has radius 1.2)."""
    seed: int = 0
    val_fraction: float = 0.1
    """Share of the shapes held out for evaluation, where no split files are given."""

    def __post_init__(self) -> None:
        for name, known in (("backend", ("raster", "blender")), ("engine", ("cycles", "eevee"))):
            value = getattr(self, name)
            require(value in known, f"{name} must be {' or '.join(known)}, not {value!r}")
        require(self.samples >= 1, f"samples must be at least 1, not {self.samples}")
        require(self.views >= 1, f"views must be at least 1, not {self.views}")
        require(
            _power_of_two(self.resolution, 16),
            f"resolution must be a power of two >= 16, not {self.resolution}",
        )
        require(1 <= self.supersample <= 8, f"supersample must be 1 to 8, not {self.supersample}")
        check_seed(self.seed)
        require(0 < self.scale <= 1, f"scale must be in (0, 1], not {self.scale}")
        require(0 < self.val_fraction < 1, f"val_fraction must be between 0 and 1, not {self.val_fraction}")


@dataclass(frozen=True)
class ModelConfig:
    """The generator and the discriminators."""

    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    num_classes: int = 0
    """Classes of a class-conditional model, as many as the data set has; 0: none, the published model."""
    generator: str = "unified"
    """unified: one tri-plane backbone with a geometry and a texture head per block (the paper's improved
    generator). separate: 3-D networks for SDF and deformation, a tri-plane network for the texture."""
    isosurface: str = "dmtet"
    """dmtet: marching tetrahedra. flexicubes: FlexiCubes on a regular grid of tet_res^3 cubes."""
    tri_plane_resolution: int = 256
    tri_plane_features: int = 32
    """Features of one plane."""
    channel_base: int = 32768
    """Channels of the backbone at resolution r: min(channel_base / r, channel_max)."""
    channel_max: int = 512
    volume_channel_base: int = 2048
    """Channels of the 3-D networks of `generator: separate` at resolution r: min(base / r, max)."""
    volume_channel_max: int = 256
    mlp_hidden_layers: int = 1
    mlp_width: int = 32
    texture_features: int = 16
    """Width of the rendered feature image that `to_rgb` turns into colour."""
    tet_res: int = 90
    """Layers of the tetrahedral grid, or cubes, along each side (even)."""
    grid_scale: float = 1.0
    """Side of the grid, world units."""
    deformation_multiplier: float = 1.0
    """A grid vertex moves by at most 1 / (tet_res * deformation_multiplier), half of that with FlexiCubes."""
    initial_shape: tuple[float, float, float] | None = None
    """Half extents (x, y, z; world units) of a rounded box that the SDF starts from; none: the published
    model, whose SDF starts random. Worth it where the budget is minutes, not days."""
    mirror_symmetry: bool = False
    """Shapes are mirror images across the x = 0 plane, as vehicles and furniture are: both halves read the same
    features. Off in the published model."""
    image_resolution: int = 1024
    """Resolution of rendered images and of the discriminators' input."""
    antialias_color: bool = False
    """Antialias RGB as well as the silhouette; the published model antialiases the silhouette only."""
    discriminator_channel_base: int = 32768
    discriminator_channel_max: int = 512
    num_half_precision_blocks: int = 4
    """Highest-resolution blocks that run in half precision (CUDA only)."""
    activation_clamp: float = 256.0
    """Bound of activations in those blocks."""

    def __post_init__(self) -> None:
        for name in (
            "z_dim", "w_dim", "mapping_layers", "mlp_hidden_layers", "mlp_width", "texture_features",
            "tri_plane_features", "channel_max", "volume_channel_max", "discriminator_channel_max",
        ):  # fmt: skip
            require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("num_classes", "num_half_precision_blocks"):
            require(getattr(self, name) >= 0, f"{name} must be 0 or more, not {getattr(self, name)}")
        for name, choices in (("generator", GENERATORS), ("isosurface", ISOSURFACES)):
            value = getattr(self, name)
            require(value in choices, f"{name} must be {' or '.join(choices)}, not {value!r}")
        require(
            not (self.mirror_symmetry and self.isosurface == "flexicubes"),
            "mirror_symmetry needs isosurface: dmtet; the weights of FlexiCubes are not mirrored",
        )
        for name, low in (("tri_plane_resolution", 8), ("image_resolution", 16)):
            value = getattr(self, name)
            require(_power_of_two(value, low), f"{name} must be a power of two >= {low}, not {value}")
        require(
            self.tet_res >= 4 and self.tet_res % 2 == 0, f"tet_res must be even and >= 4, not {self.tet_res}"
        )
        for name in ("grid_scale", "deformation_multiplier", "activation_clamp"):
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")
        for base, top in (
            ("channel_base", "tri_plane_resolution"),
            ("discriminator_channel_base", "image_resolution"),
        ):
            require(
                getattr(self, base) >= getattr(self, top),
                f"{base} must be at least {top} ({getattr(self, top)}), not {getattr(self, base)}",
            )
        require(
            self.volume_channel_base >= 32,
            f"volume_channel_base must be at least 32, not {self.volume_channel_base}",
        )
        if self.initial_shape is not None:
            require(
                all(0 < half < self.grid_scale / 2 for half in self.initial_shape),
                f"initial_shape must lie inside the grid (0 to {self.grid_scale / 2}), not {self.initial_shape}",
            )


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop."""

    total_kimg: float = 20000.0
    """Thousands of real images shown to the discriminators."""
    batch_size: int = 32
    """Images per step over all processes."""
    generator_lr: float = 0.002
    discriminator_lr: float = 0.002
    views_per_shape: int = 1
    """Views of every generated shape in a step: batch_size / views_per_shape shapes are generated then. 1 in the
    published model; more spend less time on shapes and show the discriminators fewer different ones."""
    r1_gamma: float = 40.0
    """R1 weight: car 40, motorbike 80, chair 400 (3200 with the separate generators) at 1024."""
    r1_interval: int = 16
    """Steps between R1 phases (lazy regularisation)."""
    ema_half_life_kimg: float = 10.0
    ema_rampup: float | None = 0.05
    """The EMA half-life is at most this share of the images seen so far; none: constant."""
    style_mixing_probability: float = 0.9
    w_avg_samples: int = 100_000
    """Samples that the average w of a checkpoint, what truncation goes towards, is computed from; 0: the moving
    average of training."""
    sdf_regularizer_weight: float = 0.01
    flexicubes_deviation_weight: float = 0.5
    """Of FlexiCubes' L_dev: evens out the distances between a vertex and the crossings around it."""
    flexicubes_weights_weight: float = 0.1
    """Of the mean square of FlexiCubes' weights."""
    background: float = 1.0
    """Grey value behind real images, in [-1, 1]."""
    mirror_images: bool = False
    """Every real image is also used as a mirror shows it, with its camera mirrored: twice the images of things whose
    two sides look alike."""
    balance_groups: bool = True
    """Near-duplicates (equal vertices, or a group of `get3d render --groups`) together are drawn as often as one shape,
    so that ten recolours of one car do not count ten times."""
    camera_conditioning: bool = True
    checkpoint_interval_kimg: float = 200.0
    image_interval_kimg: float = 200.0
    """Between image grids."""
    log_interval_kimg: float = 4.0
    validation_images: int = 256
    """Held-out views that every checkpoint is measured against (sliced Wasserstein distance); 0: none."""
    early_stopping_patience: int | None = None
    """Checkpoints in a row without a better validation metric after which training ends; none: never."""
    rank_timeout_s: float = 600.0
    """How long the processes of a run wait for one that hangs; longer than a checkpoint with its validation takes."""
    init_from: str | None = None
    """Checkpoint whose weights a new run starts from (a path, as `--init-from`); none: random weights."""
    cuda_graphs: bool = True
    """On a GPU networks and losses are recorded once and replayed; off: kernel by kernel, for debugging."""
    recompute_activations: bool = False
    """On a GPU the discriminators make the inputs of their convolutions again instead of keeping them, and nothing
    runs beside anything else: less than half the activations, some per cent slower."""
    seed: int = 0
    data_workers: int = 4
    """Threads that decode images ahead of the training step; 1 is best for small images, which stay in memory."""

    def __post_init__(self) -> None:
        for name in (
            "total_kimg", "generator_lr", "discriminator_lr", "ema_half_life_kimg",
            "checkpoint_interval_kimg", "image_interval_kimg", "log_interval_kimg", "rank_timeout_s",
        ):  # fmt: skip
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")
        for name in ("batch_size", "views_per_shape", "r1_interval", "data_workers"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        require(
            self.batch_size % self.views_per_shape == 0,
            f"batch_size ({self.batch_size}) must be a multiple of views_per_shape ({self.views_per_shape})",
        )
        check_seed(self.seed)
        require(
            self.ema_rampup is None or self.ema_rampup > 0,
            f"ema_rampup must be positive or null, not {self.ema_rampup}",
        )
        require(
            self.early_stopping_patience is None or self.early_stopping_patience >= 1,
            f"early_stopping_patience must be at least 1 or null, not {self.early_stopping_patience}",
        )
        for name in (
            "r1_gamma", "sdf_regularizer_weight", "flexicubes_deviation_weight", "flexicubes_weights_weight",
            "validation_images", "w_avg_samples",
        ):  # fmt: skip
            require(getattr(self, name) >= 0, f"{name} must not be negative, not {getattr(self, name)}")
        require(
            0 <= self.style_mixing_probability <= 1,
            f"style_mixing_probability must be 0 to 1, not {self.style_mixing_probability}",
        )
        require(-1 <= self.background <= 1, f"background must be in [-1, 1], not {self.background}")


@dataclass(frozen=True)
class ServingConfig:
    """What is exported and how the demo samples it."""

    texture_resolution: int = 1024
    truncation_psi: float = 0.7
    """Default of a request that names none."""
    max_batch_size: int = 8
    """Meshes that are worked on together, and rows that one request may have."""
    device: str = "auto"
    """auto: a GPU where there is one; cpu: never."""
    instances: int = 1
    """Processes of the model, which share the CPU cores; on a GPU a second one samples while the first one encodes."""
    queue_size: int = 64
    """Requests that may wait; more are refused at once."""
    queue_timeout_s: float = 60.0
    """How long a request may wait."""
    time_limit_s: float = 60.0
    """How long a batch may take."""

    def __post_init__(self) -> None:
        check_texture_resolution(self.texture_resolution)
        check_psi(self.truncation_psi)
        for name in ("max_batch_size", "instances", "queue_size"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("queue_timeout_s", "time_limit_s"):
            require(getattr(self, name) > 0, f"{name} must be positive, not {getattr(self, name)}")
        require(self.device in ("auto", "cpu"), f"device must be auto or cpu, not {self.device!r}")


@dataclass(frozen=True)
class Config:
    """A whole params file."""

    name: str = "car_1024"
    meshes: MeshesConfig = field(default_factory=MeshesConfig)
    render: RenderConfig = field(default_factory=RenderConfig)
    cameras: CameraConfig = field(default_factory=CameraConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    serving: ServingConfig = field(default_factory=ServingConfig)

    def __post_init__(self) -> None:
        require(
            self.render.resolution == self.model.image_resolution,
            f"render.resolution ({self.render.resolution}) must equal model.image_resolution "
            f"({self.model.image_resolution})",
        )


def load_config(path: Path) -> Config:
    """Reads and checks a params file. Raises InputError."""
    path = Path(path)
    try:
        data = read_yaml(path)
    except FileNotFoundError:
        presets = ", ".join(sorted(p.stem for p in CONFIG_DIR.glob("*.yaml")))
        raise InputError(
            f"{path}: no such params file; start from a preset in {CONFIG_DIR} ({presets})"
        ) from None
    return config_from_dict(data, str(path))


def config_from_dict(data: Any, source: str = "configuration") -> Config:
    """Builds a Config from plain values (the inverse of `dataclasses.asdict`). Raises InputError."""
    return settings_from_dict(Config, data, source)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON-able values."""
    return {item.name: _plain(getattr(config, item.name)) for item in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return config_to_dict(value) if dataclasses.is_dataclass(value) else value
