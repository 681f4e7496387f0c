"""The mesh rasteriser in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def rasterize_mesh(
    vertices: Tensor,  # [C, V, 3] camera space
    faces: Tensor,  # [F, 3]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    near: float = 0.01,
    cull_back: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest triangle at pixel centres, differentiable but for which it is; returns face_ids [C,H,W] int32, barycentrics [C,H,W,3], depth [C,H,W].

    The rules of include/coverage.h, in float64 whatever the dtype is, so that the triangles are those that the kernels find.
    """
    points = to_pixels(vertices.double(), Ks.double())  # [C, V, 3]
    face_ids = _nearest(points.detach(), faces, width, height, near, cull_back)
    at = (face_ids >= 0).nonzero(as_tuple=True)
    P = points[at[0][:, None], faces[face_ids[at].long()]]  # [M, 3 corners, 3]
    e = _edge_functions(*_seen_from(P, at[2] + 0.5, at[1] + 0.5))[0]
    b = e / e.sum(-1, keepdim=True)
    barycentrics = vertices.new_zeros(*face_ids.shape, 3).index_put(at, b.to(vertices.dtype))
    return face_ids, barycentrics, vertices.new_zeros(face_ids.shape).index_put(at, (b * P[..., 2]).sum(-1).to(vertices.dtype))


def to_pixels(vertices: Tensor, Ks: Tensor) -> Tensor:
    """Points K·vertex [C,V,3] of vertices [C,V,3]: (u z, v z, z)."""
    x, y, z = (t[..., None] for t in vertices.unbind(-1))
    right, down, ahead = (t[:, None] for t in Ks.unbind(-1))
    return x * right + y * down + z * ahead


@torch.no_grad()
def _nearest(points: Tensor, faces: Tensor, width: int, height: int, near: float, cull_back: bool) -> Tensor:
    """face_ids [C,H,W] of points (u z, v z, z) [C,V,3]."""
    C, device = len(points), points.device
    near = float(torch.tensor(near, dtype=torch.float32))
    face_ids = torch.full((C, height, width), -1, dtype=torch.int32, device=device)
    nearest = torch.full((C, height, width), torch.inf, device=device)
    xs, ys = (torch.arange(n, dtype=points.dtype, device=device) + 0.5 for n in (width, height))
    for camera in range(C):
        corners = points[camera][faces]  # [F, 3 corners, 3]
        shows = corners.isfinite().all(-1).all(-1) & (corners[..., 2] >= near).any(-1)
        for index in shows.nonzero().flatten().tolist():
            P = corners[index]
            if (P[:, 2] >= near).all():  # the pixels whose centres the triangle can cover, with a margin for rounding
                uv = P[:, :2] / P[:, 2:]
                left, top = ((uv.min(0).values - 0.501).ceil().clamp(0, 2**20)).long().tolist()
                right, bottom = ((uv.max(0).values + 0.501).floor().clamp(0, 2**20)).long().tolist()
                box = (slice(top, bottom), slice(left, right))
            else:
                box = (slice(0, height), slice(0, width))
            if not len(xs[box[1]]) or not len(ys[box[0]]):
                continue
            e, side = _edge_functions(*_seen_from(P, xs[box[1]], ys[box[0], None]))  # [h, w, 3]
            z = ((e[..., 0] * P[0, 2] + e[..., 1] * P[1, 2] + e[..., 2] * P[2, 2]) / e.sum(-1)).float()
            inside = (side != 0) & (z >= near) & ((side < 0) | (not cull_back))
            closer = inside & (z < nearest[camera][box])
            nearest[camera][box][closer] = z[closer]
            face_ids[camera][box][closer] = index
    return face_ids


def _seen_from(P: Tensor, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Corners P [...,3 corners,3] seen from pixel centres, each corner's (x, y) and depth apart."""
    z = [P[..., i, 2] for i in range(3)]
    return [P[..., i, 0] - x * z[i] for i in range(3)], [P[..., i, 1] - y * z[i] for i in range(3)], z


def _edge_functions(x: list[Tensor], y: list[Tensor], z: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Edge functions e [...,3] and the sign that they share [...], 0 where they do not: where the triangle is not seen."""
    e, signs = [], []
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        e.append(_difference(x[i], y[j], y[i], x[j]))
        with torch.no_grad():
            sign = e[-1].sign()
            if bool((sign == 0).any()):  # on the edge: its slope to the left, then upwards
                for slope in (_difference(z[i], y[j], y[i], z[j]), _difference(x[i], z[j], z[i], x[j])):
                    sign = torch.where(sign == 0, slope.sign(), sign)
            signs.append(sign)
    side = torch.where((signs[0] == signs[1]) & (signs[1] == signs[2]), signs[0], 0)
    return torch.stack(e, -1), side


def _difference(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """a·b - c·d with the sign that it has without rounding."""
    p, q = a * b, c * d
    with torch.no_grad():
        equal = p == q
        lost = torch.where(equal, _lost(a, b, p) - _lost(c, d, q), 0) if bool(equal.any()) else None
    return p - q if lost is None else p - q + lost


def _lost(a: Tensor, b: Tensor, rounded: Tensor) -> Tensor:
    """What a·b lost to rounding (Dekker 1971)."""
    halves = []
    for t in (a, b):
        shifted = 134217729.0 * t
        high = shifted - (shifted - t)
        halves.append((high, t - high))
    (a_high, a_low), (b_high, b_low) = halves
    return ((a_high * b_high - rounded) + a_high * b_low + a_low * b_high) + a_low * b_low


def interpolate(attributes: Tensor, faces: Tensor, face_ids: Tensor, barycentrics: Tensor) -> Tensor:
    """Vertex attributes [V,D] or [C,V,D] at the pixels: [C,H,W,D], 0 where nothing is."""
    out = attributes.new_zeros(*face_ids.shape, attributes.shape[-1])
    at = (face_ids >= 0).nonzero(as_tuple=True)
    corners = faces[face_ids[at].long()]
    rows = attributes[corners] if attributes.dim() == 2 else attributes[at[0][:, None], corners]
    return out.index_put(at, (rows * barycentrics[at][..., None]).sum(1))


def antialias(
    image: Tensor, depth: Tensor, vertices: Tensor, edges: Tensor, Ks: Tensor, near: float = 0.01, cull_back: bool = False
) -> Tensor:
    """Silhouettes of an image [C,H,W,D] by coverage: what include/mesh.h says."""
    C, height, width, channels = image.shape
    points = to_pixels(vertices, Ks).double()
    out = image.reshape(-1, channels)
    takers, givers, amounts = [], [], []
    for camera in range(C):
        with torch.no_grad():
            view = _Silhouettes(points[camera], edges, width, height, near, cull_back)
            edge, index = view.passages(depth[camera])
        extent = view.extent(points[camera], edge, index)[0]
        row, column = view.pixel(points[camera], edge, index)
        first = (camera * height + row) * width + column
        second = first + torch.where(view.steep[edge], 1, width)
        inner = extent.detach() < 0.5
        first_takes = inner == view.covers_first[edge]
        takers.append(torch.where(first_takes, first, second))
        givers.append(torch.where(first_takes, second, first))
        amounts.append(torch.where(inner, 0.5 - extent, extent - 0.5).to(image.dtype))
    if not takers:
        return image.clone()
    taker, giver, amount = torch.cat(takers), torch.cat(givers), torch.cat(amounts)
    return out.index_add(0, taker, amount[:, None] * (out[giver] - out[taker])).reshape(image.shape)


class _Silhouettes:
    """The edges [E,4] that are silhouettes of one view of points [V,3]."""

    def __init__(self, points: Tensor, edges: Tensor, width: int, height: int, near: float, cull_back: bool) -> None:
        self.points, self.edges, self.width, self.height = points, edges, width, height
        a, b, opposite = (points[edges[:, i]] for i in range(3))
        other = points[edges[:, 3].clamp_min(0)]
        line = torch.linalg.cross(a, b)
        side, beyond = (line * opposite).sum(-1), (line * other).sum(-1)
        same = (side.sign() * beyond.sign() > 0) & beyond.isfinite()
        alone = edges[:, 3] < 0
        valid = torch.where(alone, ~((side > 0) & cull_back), same) & side.isfinite() & (side != 0)
        valid = valid & ((a[:, 2] >= near) | (b[:, 2] >= near))
        ends = []
        for here, there in ((a, b), (b, a)):
            t = torch.where(here[:, 2] >= near, 0, (near - here[:, 2]) / (there[:, 2] - here[:, 2]))
            clipped = here + t[:, None] * (there - here)
            ends.append(clipped[:, :2] / clipped[:, 2:])
        uv = torch.stack(ends)  # [2, E, 2]
        self.steep = line[:, 0].abs() >= line[:, 1].abs()
        across = torch.where(self.steep, line[:, 0], line[:, 1])
        valid = valid & (across != 0) & uv.isfinite().all(-1).all(0)
        self.covers_first = (across > 0) != (side > 0)
        along = torch.where(self.steep[None], uv[..., 1], uv[..., 0])
        limit = torch.where(self.steep, height, width)
        low, high = along.min(0).values, along.max(0).values
        low, high = (torch.minimum((x - 0.5).ceil().nan_to_num(0).clamp(0, 2**20).long(), limit) for x in (low, high))
        self.first, self.count = low, torch.where(valid, (high - low).clamp_min(0), 0)

    def passages(self, depth: Tensor) -> tuple[Tensor, Tensor]:
        """(edge, row or column) of the passages that win their pair of pixels in the depth image [H,W]."""
        edge = torch.repeat_interleave(torch.arange(len(self.count), device=depth.device), self.count)
        start = torch.cumsum(self.count, 0) - self.count
        index = torch.arange(len(edge), device=depth.device) - start[edge] + self.first[edge]
        return self._winners(edge, index, depth.double())

    def _winners(self, edge: Tensor, index: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        extent, z = self.extent(self.points, edge, index)
        row, column = self.pixel(self.points, edge, index)
        steep = self.steep[edge]
        inside = (row >= 0) & (column >= 0) & (row < self.height - (~steep).long()) & (column < self.width - steep.long())
        far = torch.where(depth > 0, depth, 3.4e38).flatten()
        at = torch.where(inside, row * self.width + column, 0)
        next_one = torch.where(inside, at + torch.where(steep, 1, self.width), 0)
        covers_first = self.covers_first[edge]
        covered, other = torch.where(covers_first, far[at], far[next_one]), torch.where(covers_first, far[next_one], far[at])
        keep = inside & (covered < other) & (z <= other)
        slot = (2 * at + (~steep).long())[keep]
        edge, index, extent = edge[keep], index[keep], extent[keep].float()
        best = torch.full((2 * len(far),), -1.0, device=depth.device).scatter_reduce(0, slot, extent, "amax")
        last = torch.full((2 * len(far),), -1, device=depth.device).scatter_reduce(
            0, slot, torch.where(extent == best[slot], edge, -1), "amax"
        )
        won = edge == last[slot]
        return edge[won], index[won]

    def _along(self, points: Tensor, edge: Tensor, index: Tensor) -> Tensor:
        """Where the edges pass the centres of their rows or columns, along the other axis."""
        line = torch.linalg.cross(points[self.edges[edge, 0]], points[self.edges[edge, 1]])
        steep = self.steep[edge]
        slope, across = torch.where(steep, line[:, 1], line[:, 0]), torch.where(steep, line[:, 0], line[:, 1])
        return -(slope * (index + 0.5) + line[:, 2]) / across

    def pixel(self, points: Tensor, edge: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of the first pixel of each passage's pair."""
        at = (self._along(points, edge, index).detach() - 0.5).floor().clamp(-2, 2**20).long()
        steep = self.steep[edge]
        return torch.where(steep, index, at), torch.where(steep, at, index)

    def extent(self, points: Tensor, edge: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """How far the surface reaches from the centre that it covers to the next, and the edge's depth there."""
        along = self._along(points, edge, index)
        share = along - 0.5 - (along.detach() - 0.5).floor()
        centre = index + 0.5
        steep = self.steep[edge]
        ray = torch.stack([torch.where(steep, along, centre), torch.where(steep, centre, along), torch.ones_like(along)], -1).detach()
        a, b = points[self.edges[edge, 0]].detach(), points[self.edges[edge, 1]].detach()
        line = torch.linalg.cross(a, b)
        at_a, at_b = ((torch.linalg.cross(end, ray) * line).sum(-1) for end in (a, b))
        z = (at_a * b[:, 2] - at_b * a[:, 2]) / (at_a - at_b)
        return torch.where(self.covers_first[edge], share, 1 - share), z
