"""The pictures of a tracked sequence as training wants them: decoded once, kept as bytes within a bound, prefetched.

Pictures are kept as RGBA with colours already multiplied by the matte: what compositing needs, in one array.
A `Batch` is one frame of the timeline seen by several cameras, cut to a window that holds the subject. Which frame and which cameras
a step gets depends on the seed and the step's number alone, so that a resumed training sees what an uninterrupted one would.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from avatars.sequence import TrackedSequence
from avatars.types import Cameras

MARGIN = 12  # pixels around the foreground
_BLOCK = 100  # steps whose cameras are drawn together


@dataclass(frozen=True)
class Batch:
    """One frame, C cameras."""

    t: int
    camera_ids: tuple[int, ...]
    cameras: Cameras  # cut to the window
    images: Tensor  # [C, h, w, 4] uint8, colours times matte, matte


class PictureCache:
    """Decoded pictures, the least recently used dropped beyond `megabytes`. Safe to use from several threads."""

    def __init__(self, tracked: TrackedSequence, megabytes: float) -> None:
        self.tracked = tracked
        self.limit = int(megabytes * 1e6)
        self.size = 0
        self.kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self.boxes: dict[tuple[int, int, int], tuple[int, int, int, int]] = {}
        self.lock = threading.Lock()

    def get(self, t: int, camera: int) -> np.ndarray:
        """[H, W, 4] uint8."""
        with self.lock:
            found = self.kept.get((t, camera))
            if found is not None:
                self.kept.move_to_end((t, camera))
                return found
        picture = premultiplied(self.tracked.image(t, camera), self.tracked.mask(t, camera))
        with self.lock:
            if (t, camera) not in self.kept:
                self.kept[t, camera] = picture
                self.size += picture.nbytes
            while self.size > self.limit and len(self.kept) > 1:
                self.size -= self.kept.popitem(last=False)[1].nbytes
        return picture

    def holds(self, t: int, camera: int) -> bool:
        """Whether the picture is there; it then counts as used just now."""
        with self.lock:
            if (t, camera) not in self.kept:
                return False
            self.kept.move_to_end((t, camera))
            return True

    def box(self, t: int, camera: int, margin: int) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the foreground and `margin` pixels; the whole picture when there is none. Found once per picture."""
        key = (t, camera, margin)
        if key not in self.boxes:
            self.boxes[key] = _box(self.get(t, camera)[..., 3], margin)
        return self.boxes[key]


def premultiplied(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] and [H, W] → [H, W, 4], colours times mask / 255 (rounded), mask."""
    scaled = (image.astype(np.uint16) * mask[..., None] + 127) // 255
    return np.concatenate([scaled.astype(np.uint8), mask[..., None]], 2)


def schedule(frames: np.ndarray, usable: np.ndarray, views: int, seed: int, step: int) -> tuple[int, tuple[int, ...]]:
    """The frame and the cameras of a step: every epoch visits all `frames` once, in a new order.

    frames [T'] timeline indices; usable [T, C] bool; at most `views` cameras.
    """
    epoch, position = divmod(step, len(frames))
    t = int(frames[_frame_order(seed, epoch, len(frames))[position]])
    block, place = divmod(step, _BLOCK)
    order = _camera_orders(seed, block, usable.shape[1])[place]
    chosen = order[usable[t, order]][:views]
    return t, tuple(sorted(chosen.tolist()))


@lru_cache(2)
def _frame_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """[count] a permutation."""
    return np.random.default_rng((seed, 1, epoch)).permutation(count)


@lru_cache(2)
def _camera_orders(seed: int, block: int, count: int) -> np.ndarray:
    """[_BLOCK, count] a permutation per step; drawn together, as making a generator takes as long as drawing."""
    return np.random.default_rng((seed, 2, block)).random((_BLOCK, count)).argsort(1)


def load_batch(cache: PictureCache, t: int, camera_ids: tuple[int, ...], margin: int = MARGIN) -> Batch:
    """Pictures cut to one common window size that holds the foreground of every one of them plus `margin` pixels."""
    pictures = [cache.get(t, c) for c in camera_ids]
    cameras = cache.tracked.cameras
    boxes = [cache.box(t, c, margin) for c in camera_ids]
    width = min(cameras.width, max(b[2] - b[0] for b in boxes))
    height = min(cameras.height, max(b[3] - b[1] for b in boxes))
    images = np.empty((len(pictures), height, width, 4), np.uint8)
    Ks = cameras.Ks.numpy()[list(camera_ids)]
    for image, K, picture, box in zip(images, Ks, pictures, boxes, strict=True):
        x = min(max((box[0] + box[2] - width) // 2, 0), cameras.width - width)
        y = min(max((box[1] + box[3] - height) // 2, 0), cameras.height - height)
        image[:] = picture[y : y + height, x : x + width]
        K[:2, 2] -= (x, y)
    names = tuple(cameras.names[c] for c in camera_ids)
    cut = Cameras(names, torch.from_numpy(Ks), torch.from_numpy(cameras.viewmats.numpy()[list(camera_ids)]), width, height)
    return Batch(t, camera_ids, cut, torch.from_numpy(images))


def batches(
    cache: PictureCache, frames: np.ndarray, usable: np.ndarray, views: int, seed: int, first: int, ahead: int = 3
) -> Generator[Batch]:
    """Endless batches of steps `first`, `first`+1, …; one thread decodes what up to `ahead` of them lack in the cache.

    A batch whose pictures are there is put together by who asks for it: a thread that did so for every step would hold up the
    kernels' caller for as long as it runs Python.
    """
    decoder = ThreadPoolExecutor(1, "pictures")
    coming: deque[tuple[int, tuple[int, ...], Future[None] | None]] = deque()
    steps = itertools.count(first)

    def decode(t: int, cameras: list[int]) -> None:
        for c in cameras:
            cache.box(t, c, MARGIN)
            cache.get(t, c)

    try:
        while True:
            while len(coming) <= ahead:
                t, cameras = schedule(frames, usable, views, seed, next(steps))
                missing = [c for c in cameras if not cache.holds(t, c)]
                coming.append((t, cameras, decoder.submit(decode, t, missing) if missing else None))
            t, cameras, decoding = coming.popleft()
            if decoding is not None:
                decoding.result()
            yield load_batch(cache, t, cameras)
    finally:
        decoder.shutdown(cancel_futures=True)


def _box(mask: np.ndarray, margin: int) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the foreground and a margin; the whole picture when there is none."""
    height, width = mask.shape
    rows, columns = np.flatnonzero((mask > 25).any(1)), np.flatnonzero((mask > 25).any(0))
    if not len(rows):
        return 0, 0, width, height
    return (
        max(int(columns[0]) - margin, 0), max(int(rows[0]) - margin, 0),
        min(int(columns[-1]) + 1 + margin, width), min(int(rows[-1]) + 1 + margin, height),
    )  # fmt: skip
