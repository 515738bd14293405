"""Where the elements of a map lie. In: channels, size, border. Out: strides, from which kernels take addresses.

A map is stored in panels of ``lanes`` channels: [c/lanes][h][w][lanes]. The same value describes a planar image
(one lane a panel) and a channels-last one (one panel for all channels), so that kernels read a user's tensor as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from separable.kernels.ir import Function, Index

ITEM = 4
Border = tuple[tuple[int, int], tuple[int, int]]
NO_BORDER: Border = ((0, 0), (0, 0))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Strides in floats: ``pixel`` to the right, ``row`` down, ``panel`` to the next ``lanes`` channels.

    ``border`` is ((top, bottom), (left, right)): pixels around the map that hold the padding of whoever reads it.
    ``ring``: only so many rows are kept, row y of the map with its border in place y mod ``ring``; 0 keeps all.
    """

    channels: int
    height: int
    width: int
    lanes: int
    pixel: int
    row: int
    panel: int
    border: Border = NO_BORDER
    ring: int = 0

    @property
    def panels(self) -> int:
        """Panels, the last one padded with zero channels."""
        return -(-self.channels // self.lanes)

    @property
    def pixels(self) -> int:
        """Pixels of the map, border not counted."""
        return self.height * self.width

    @property
    def floats(self) -> int:
        """Floats from the first of the border to behind the last: what a buffer must hold."""
        (top, bottom), (left, right) = self.border
        rows, columns = (self.ring or self.height + top + bottom) - 1, self.width + left + right - 1
        return (self.panels - 1) * self.panel + rows * self.row + columns * self.pixel + self.lanes

    @property
    def is_flat(self) -> bool:
        """Whether all pixels of a panel lie at one stride."""
        return (self.row == self.pixel * self.width or self.height == 1) and not self.ring

    def phase(self, step: tuple[int, int], first: tuple[int, int] = (0, 0)) -> Layout:
        """Every ``step``-th row and column, from the pixel ``first`` on, which lies at ``offset(*first)``."""
        height, width = (-(-(n - f) // s) for n, f, s in zip((self.height, self.width), first, step, strict=True))
        row, pixel = step[0] * self.row, step[1] * self.pixel
        return replace(self, height=height, width=width, row=row, pixel=pixel, border=NO_BORDER)

    def offset(self, y: int = 0, x: int = 0, panel: int = 0) -> int:
        """Bytes from the start of the buffer to a pixel; y and x may reach into the border."""
        (top, _), (left, _) = self.border
        return ITEM * (panel * self.panel + (y + top) * self.row + (x + left) * self.pixel)

    @property
    def origin(self) -> int:
        """Bytes from the start of the buffer to where ``row_offset`` counts from."""
        return self.offset(-self.border[0][0] if self.ring else 0)

    def row_offset(self, f: Function, y: Index) -> Index:
        """Code for the bytes from ``origin`` to row y, which may reach into the border."""
        if not self.ring:
            return f.mul(y, ITEM * self.row)
        return f.mul(f.rem(f.add(y, self.border[0][0]), self.ring), ITEM * self.row)


def panels(channels: int, size: tuple[int, int], lanes: int, border: Border = NO_BORDER, ring: int = 0) -> Layout:
    """Panels of ``lanes`` channels, each on cache lines of its own; a map of one pixel is a plain vector.

    A panel of 4 KB times a whole number would put the same pixel of all panels into one set of the first-level cache
    (measured: half the speed at 64 channels and more), so the distance is kept away from that.
    """
    (top, bottom), (left, right) = border
    row = (width := size[1] + left + right) * lanes
    pixels = (ring or size[0] + top + bottom) * width
    panel = lanes if pixels == 1 else -(-pixels * lanes // LINE) * LINE
    if -(-channels // lanes) > 1 and panel >= PAGE // 2:
        panel += -panel % (2 * LINE) + LINE
        while min(panel % PAGE, -panel % PAGE) < 4 * LINE:
            panel += 2 * LINE
    return Layout(
        channels=channels,
        height=size[0],
        width=size[1],
        lanes=lanes,
        pixel=lanes,
        row=row,
        panel=panel,
        border=border,
        ring=ring,
    )


def planar(channels: int, size: tuple[int, int], border: Border = NO_BORDER) -> Layout:
    """(c, h, w), as PyTorch stores a contiguous tensor."""
    (top, bottom), (left, right) = border
    row = size[1] + left + right
    panel = row * (size[0] + top + bottom)
    return Layout(
        channels=channels, height=size[0], width=size[1], lanes=1, pixel=1, row=row, panel=panel, border=border
    )


def channels_last(channels: int, size: tuple[int, int]) -> Layout:
    """(h, w, c), as PyTorch stores a channels-last tensor."""
    row = size[1] * channels
    return Layout(channels=channels, height=size[0], width=size[1], lanes=1, pixel=channels, row=row, panel=1)


LINE = 64 // ITEM
PAGE = 4096 // ITEM
