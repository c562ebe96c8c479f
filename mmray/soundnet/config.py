"""What a SoundNet is made of: the layers of both nets, their geometry in time, and the config.

The nets are those of Aytar, Vondrick and Torralba, "SoundNet: Learning Sound Representations from
Unlabeled Video" (NIPS 2016), with the strides of the authors' published training code (the
paper's tables misprint some of them). This module stays light: it imports no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from mmray.errors import UserError

HEADS = ("objects", "scenes")
CONFIG_KIND = "soundnet"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Layer:
    """One step along time: a convolution (with its BatchNorm and ReLU) or a max pooling.

    Args:
        name: as in the paper, for example `conv5` or `pool5`.
        channels: output channels.
        kernel: cells of the layer below that one output cell sees.
        stride: cells of the layer below between two output cells.
        left: zeros put before the layer below.
        right: zeros put after it.
    """

    name: str
    channels: int
    kernel: int
    stride: int
    left: int = 0
    right: int = 0

    @property
    def is_pool(self) -> bool:
        """Whether this is a max pooling."""
        return self.name.startswith("pool")

    def cells(self, below: int) -> int:
        """Output cells for `below` input cells (floor mode); 0 when the input is too short."""
        padded = below + self.left + self.right
        return max(0, (padded - self.kernel) // self.stride + 1) if below else 0

    def cells_needed(self, out: int) -> int:
        """The fewest input cells that give `out` output cells."""
        return max(1, (out - 1) * self.stride + self.kernel - self.left - self.right)


@dataclass(frozen=True)
class Geometry:
    """Where the cells of a layer lie in the waveform, in samples.

    Args:
        stride: samples between the starts of two neighbouring cells.
        field: samples that one cell sees (its receptive field).
        start: first sample that cell 0 sees; negative where it sees padding.
    """

    stride: int = 1
    field: int = 1
    start: int = 0

    def then(self, layer: Layer) -> Geometry:
        """The geometry after one more layer."""
        return Geometry(
            stride=self.stride * layer.stride,
            field=self.field + (layer.kernel - 1) * self.stride,
            start=self.start - layer.left * self.stride,
        )

    @property
    def first_centre(self) -> float:
        """Centre of cell 0, in samples."""
        return self.start + (self.field - 1) / 2


def _conv(name: str, channels: int, kernel: int) -> Layer:
    """A convolution of the trunk: stride 2, padded by half the kernel on both sides."""
    return Layer(name, channels, kernel, 2, kernel // 2, kernel // 2)


ARCHITECTURES: dict[str, tuple[Layer, ...]] = {
    "soundnet8": (
        _conv("conv1", 16, 64),
        Layer("pool1", 16, 8, 8),
        _conv("conv2", 32, 32),
        Layer("pool2", 32, 8, 8),
        _conv("conv3", 64, 16),
        _conv("conv4", 128, 8),
        _conv("conv5", 256, 4),
        Layer("pool5", 256, 4, 4),
        _conv("conv6", 512, 4),
        _conv("conv7", 1024, 4),
    ),
    "soundnet5": (
        _conv("conv1", 32, 64),
        Layer("pool1", 32, 8, 8),
        _conv("conv2", 64, 32),
        Layer("pool2", 64, 8, 8),
        _conv("conv3", 128, 16),
        Layer("pool3", 128, 8, 8),
        _conv("conv4", 256, 8),
    ),
}
# The heads of the published nets; their steps do not line up with frames 5 s apart.
PUBLISHED_HEADS = {
    "soundnet8": Layer("head", 0, 8, 2),
    "soundnet5": Layer("head", 0, 16, 12, 4, 4),
}


@dataclass
class SoundNetConfig:
    """Everything that determines a SoundNet's layers.

    Args:
        arch: `soundnet8` or `soundnet5`.
        objects: class names of the object head; empty for no such head.
        scenes: class names of the scene head; empty for no such head.
        aligned: the heads give one output for each frame of the teachers, from the part of the
            sound around that frame. False for the published geometry, whose outputs are tied to
            frames by position only.
        head_kernel: cells of the last trunk layer that an aligned head sees. Unaligned heads
            always have the published kernel.
        scale: factor on the waveform before the first layer; the published nets expect samples
            in [-256, 256].
        sample_rate: of the waveforms, in Hz.
        frame_s: seconds of sound that belong to one frame of the teachers.

    Raises:
        UserError: the values do not describe a net.
    """

    arch: str = "soundnet8"
    objects: list[str] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)
    aligned: bool = True
    head_kernel: int = 1
    scale: float = 256.0
    sample_rate: int = 22050
    frame_s: float = 5.0

    def __post_init__(self) -> None:
        if self.arch not in ARCHITECTURES:
            raise UserError(
                f"SoundNet config: arch is {self.arch!r}; expected {' or '.join(ARCHITECTURES)}"
            )
        if not self.aligned:
            self.head_kernel = PUBLISHED_HEADS[self.arch].kernel
        for head in HEADS:
            names = getattr(self, head)
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise UserError(f"SoundNet config: {head} is {names!r}; expected a list of names")
        for name in ("head_kernel", "scale", "sample_rate", "frame_s"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                raise UserError(f"SoundNet config: {name} is {value!r}; expected a positive number")

    @property
    def trunk(self) -> tuple[Layer, ...]:
        """The layers below the heads, first to last."""
        return ARCHITECTURES[self.arch]

    @property
    def classes(self) -> dict[str, list[str]]:
        """Class names of each head that the net has."""
        return {head: getattr(self, head) for head in HEADS if getattr(self, head)}

    @property
    def head(self) -> Layer:
        """The step that both heads make over the last trunk layer."""
        if not self.aligned:
            return PUBLISHED_HEADS[self.arch]
        left = (self.head_kernel - 1) // 2
        return Layer("head", 0, self.head_kernel, 1, left, self.head_kernel - 1 - left)

    @property
    def layer_names(self) -> list[str]:
        """Every layer with an output that can be asked for: the trunk, then the heads' logits."""
        return [layer.name for layer in self.trunk] + list(self.classes)

    def path(self, name: str) -> list[Layer]:
        """The layers from the waveform up to and with `name`.

        Raises:
            UserError: the net has no such layer.
        """
        if name not in self.layer_names:
            raise UserError(
                f"layer {name!r}: this {self.arch} has the layers {', '.join(self.layer_names)}"
            )
        if name in self.classes:
            return [*self.trunk, self.head]
        last = [layer.name for layer in self.trunk].index(name)
        return list(self.trunk[: last + 1])

    def geometry(self, name: str) -> Geometry:
        """Where the cells of layer `name` lie in the waveform."""
        geometry = Geometry()
        for layer in self.path(name):
            geometry = geometry.then(layer)
        return geometry

    def cells(self, name: str, samples: int) -> int:
        """Cells of layer `name` for a waveform of so many samples."""
        if self.aligned and name in self.classes:
            return self.head.cells(self.inside(samples))
        for layer in self.path(name):
            samples = layer.cells(samples)
        return samples

    def inside(self, samples: int) -> int:
        """Cells of the last trunk layer that heads may see, for so many samples: all but the last.

        The last cell sees more padding than sound. The published heads never met it in training
        (of 15 cells of conv7 in 20 s they take 14); shown it, they answer with logits of -500.
        """
        cells = self.cells(self.trunk[-1].name, samples)
        return max(cells - 1, min(cells, 1))

    def head_steps(self, samples: int) -> int:
        """Outputs of a head that do not see the last cell, for so many samples; at least 1."""
        return max(1, self.head.cells(self.inside(samples)))

    @property
    def head_samples(self) -> int:
        """The shortest waveform whose first output of a head does not see the last cell."""
        needed = self.head.kernel - self.head.left + 1 if not self.aligned else 1
        for layer in reversed(self.trunk):
            needed = layer.cells_needed(needed)
        return needed

    def min_samples(self, name: str) -> int:
        """The shortest waveform that gives layer `name` one cell."""
        needed = 1
        for layer in reversed(self.path(name)):
            needed = layer.cells_needed(needed)
        return needed

    def to_dict(self) -> dict[str, Any]:
        """As stored in a model folder's `config.json`."""
        return {"kind": CONFIG_KIND, "format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> SoundNetConfig:
        """Read what `to_dict` wrote; other keys (such as `training`) are left alone.

        Raises:
            UserError: it is not the config of a SoundNet of this format.
        """
        if values.get("kind") != CONFIG_KIND:
            raise UserError(
                f"{where}: holds a model of kind {values.get('kind')!r}, expected {CONFIG_KIND!r}"
            )
        if values.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{where}: has format version {values.get('format_version')!r}, this mmray reads "
                f"version {FORMAT_VERSION}"
            )
        names = [f.name for f in dataclasses.fields(cls)]
        try:
            return cls(**{name: values[name] for name in names if name in values})
        except UserError as e:
            raise UserError(f"{where}: {e}") from e
