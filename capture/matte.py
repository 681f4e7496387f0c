"""Foreground alpha of a picture: from the difference to a clean plate where there is one, else from mediapipe's selfie model.

Conventions: pictures uint8 RGB [H, W, 3], alpha float32 [H, W] in 0–1. A matter is a function from picture to alpha that is made for one
camera and used by one thread.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from avatars.errors import CaptureError
from capture.silence import quiet

Matter = Callable[[np.ndarray], np.ndarray]

REFERENCE_HEIGHT = 550  # the widths in pixels below are for pictures of this height and grow with them


def make_matter(plate: np.ndarray | None) -> Matter:
    """The best matter for a camera: `plate` is its clean plate, uint8 RGB [H, W, 3], or None."""
    if plate is None:
        return SelfieMatter()
    smooth = smooth_plate(plate)
    return lambda picture: difference_matte(picture, smooth)


def smooth_plate(plate: np.ndarray) -> np.ndarray:
    """uint8 RGB plate → float32 in 0–1 with its sensor noise taken out and its edges kept."""
    return cv2.bilateralFilter(plate.astype(np.float32) / 255, 0, 0.06, 2.0)


def difference_matte(picture: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """Alpha from the difference to a clean plate.

    1. The plate's exposure is matched per channel on pixels that look like it.
    2. A seed: what differs from the plate by more than noise allows, small darkenings along the wall's own colour (shadows) counting half;
       its small holes are filled, since an eye or a highlight may look like the wall.
    3. In a band around the seed's outline alpha solves I = α F + (1 − α) B along F − B, with F from the nearest sure foreground:
       dark hair before a light wall gets its strands, also where the wall shines through well inside of the outline. Where F and B are alike
       that is ill-posed, and the outline decides instead. Strands at the rim catch more light than the hair that F comes from, so that
       .85 along the line counts as solid (measured: error .0050 against .0062 with a narrow band and no such margin).

    picture uint8 RGB [H, W, 3]; plate float32 [H, W, 3] from `smooth_plate`; float32 [H, W] in 0–1.
    """
    if picture.shape != plate.shape:
        raise ValueError(f"difference_matte: picture {picture.shape} and plate {plate.shape} must agree")
    h, w = picture.shape[:2]
    unit = h / REFERENCE_HEIGHT
    image = picture.astype(np.float32) * np.float32(1 / 255)
    plate, difference = _match_exposure(image, plate)
    seed = _seed(difference, plate)
    if not seed.any():
        return np.zeros((h, w), np.float32)
    inside = np.minimum(cv2.distanceTransform(seed, cv2.DIST_L2, 5), 1e4) / unit  # the picture's border is no outline
    outside = np.minimum(cv2.distanceTransform(1 - seed, cv2.DIST_L2, 5), 1e4) / unit
    deep = (inside > 10).astype(np.uint8)
    if not deep.any():  # something thinner than the band: its inside is all there is
        deep = seed
    towards = _spread(image, deep, 4 * unit) - plate
    contrast = _dot(towards, towards)
    alpha = _dot(difference, towards) / np.maximum(contrast, 1e-6)
    alpha = np.clip((alpha - 0.03) / 0.82, 0, 1)
    solid = (inside > 14) | ((inside > 6) & (contrast < 0.25))  # a wide band only for dark before light: skin has hard edges
    outline = cv2.morphologyEx(((alpha > 0.4) | solid).astype(np.uint8) * seed, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    outline = cv2.GaussianBlur(_fill_holes(outline).astype(np.float32), (0, 0), 0.6)
    trust = contrast / (contrast + 0.25**2)
    alpha = trust * alpha + (1 - trust) * outline
    return np.where(solid, np.float32(1), np.where(outside < 10, alpha, np.float32(0))).astype(np.float32)


class SelfieMatter:
    """Alpha without a clean plate: mediapipe's selfie segmentation (its model comes in the wheel), its soft edge pulled to the picture's
    by a guided filter. Keeps the largest person. Not for use by several threads at once."""

    def __init__(self) -> None:
        self._model = _selfie_model()

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        coarse = self._model.process(np.ascontiguousarray(picture)).segmentation_mask.astype(np.float32)
        refined = guided_filter(picture, coarse, radius=max(2, round(6 * picture.shape[0] / REFERENCE_HEIGHT)), epsilon=1e-3)
        # The model is sure far from its edge; there the filter must not invent structure.
        refined = np.where(coarse > 0.98, 1.0, np.where(coarse < 0.02, 0.0, refined))
        alpha = np.clip((refined - 0.1) / 0.8, 0, 1)
        return (alpha * _largest((alpha > 0.1).astype(np.uint8))).astype(np.float32)


def unmix(picture: np.ndarray, alpha: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """The colour of the foreground alone, uint8 RGB [H, W, 3]: where alpha is between 0 and 1 the wall is taken out of the mixture.

    Composited with the same alpha over anything, the result shows no grey fringe in the hair: F = (I − (1 − α) B) / α, and where α is so small
    that this is noise, the colour of the nearest sure foreground. `plate` as in `difference_matte`, whose alpha this needs: with the selfie
    model's, which knows no mixtures, it does harm.
    """
    soft = (alpha > 0.02) & (alpha < 0.98)
    if not soft.any() or soft.all():
        return picture
    image = picture.astype(np.float32) * np.float32(1 / 255)
    background = _match_exposure(image, plate)[0][soft]
    near = _spread(image, (alpha > 0.98).astype(np.uint8), 4 * picture.shape[0] / REFERENCE_HEIGHT)[soft]
    a = alpha[soft][:, None]
    exact = background + (image[soft] - background) / np.maximum(a, 0.1)
    trust = np.clip((a - 0.1) / 0.2, 0, 1)
    result = picture.copy()
    result[soft] = np.rint(255 * np.clip(trust * exact + (1 - trust) * near, 0, 1)).astype(np.uint8)
    return result


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float, shrink: int = 3) -> np.ndarray:
    """Edge-preserving smoothing: values float [H, W] follow the edges of guide uint8 [H, W, 3].

    He, Sun, Tang 2010, eq. 14–16 (colour guide); the linear coefficients are found at 1/shrink of the size and scaled up (He, Sun 2015): they are
    smooth, the edges come from the full-size guide. At a third of the size the mattes of a test studio are as good (error .0064 against .0065).
    """
    h, w = values.shape
    size = (max(1, w // shrink), max(1, h // shrink))
    full = guide.astype(np.float32) / 255
    picture = cv2.resize(full, size, interpolation=cv2.INTER_AREA)
    p = cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    reach = 2 * max(1, round(radius / shrink)) + 1

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.blur(x, (reach, reach), borderType=cv2.BORDER_REFLECT)

    mean_I, mean_p = mean(picture), mean(p)
    covariance = mean(picture * p[..., None]) - mean_I * mean_p[..., None]
    sigma = np.empty((*p.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            sigma[..., i, j] = sigma[..., j, i] = mean(picture[..., i] * picture[..., j]) - mean_I[..., i] * mean_I[..., j]
    sigma += epsilon * np.eye(3, dtype=np.float32)
    a = np.linalg.solve(sigma, covariance[..., None])[..., 0]
    b = mean_p - _dot(a, mean_I)
    a, b = (cv2.resize(mean(x), (w, h), interpolation=cv2.INTER_LINEAR) for x in (a, b))
    return _dot(a, full) + b


def _match_exposure(image: np.ndarray, plate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plate scaled per channel to the picture's exposure, and picture − plate."""
    step = max(1, round(image.shape[0] / 80))  # medians need only a few thousand pixels
    few, wall = image[::step, ::step].reshape(-1, 3), plate[::step, ::step].reshape(-1, 3)
    gain = np.ones(3, np.float32)
    for _ in range(3):
        like = _largest_channel(few - wall * gain) < 0.06
        if like.sum() < 0.02 * like.size:
            break
        ratios = few[like] / np.maximum(wall[like], 0.05)
        gain = np.clip([np.median(ratios[:, c]) for c in range(3)], 0.8, 1.25).astype(np.float32)
    plate = plate * gain
    return plate, image - plate


def _seed(difference: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """uint8 0/1 [H, W]: what surely is not the plate, without specks and small holes."""
    smooth = cv2.GaussianBlur(difference, (0, 0), 0.8)
    size = _largest_channel(smooth)[::2, ::2]
    like = size[size < 0.05]
    noise = max(1.5 * float(np.median(like)), 0.003) if like.size else 0.003
    # per pixel through OpenCV: numpy is ten times slower over a last axis of three
    along = _dot(smooth, plate) / np.sqrt(np.maximum(_dot(plate, plate), 1e-6))
    across = _dot(smooth, smooth) - along * along
    distance = across + along * along * np.where(along < 0, np.float32(0.25), np.float32(1))
    seed = (distance > max(8 * noise, 0.05) ** 2).astype(np.uint8)
    seed = cv2.morphologyEx(seed, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(seed, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if count <= 1 or areas.max() < 0.002 * seed.size:
        return np.zeros_like(seed)
    keep = np.zeros(count, np.uint8)
    keep[1:] = areas >= 0.05 * areas.max()
    return _fill_holes(keep[labels])


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 [H, W] of two [H, W, 3]."""
    return cv2.transform(cv2.multiply(a, b), np.ones((1, 3), np.float32))


def _largest_channel(a: np.ndarray) -> np.ndarray:
    """max |a| over the last axis, of size 3."""
    a = np.abs(a)
    return np.maximum(np.maximum(a[..., 0], a[..., 1]), a[..., 2])


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill holes of up to 2 % of the picture that do not touch its border."""
    h, w = mask.shape
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    x, y, width, height, area = stats.T
    fill = (x > 0) & (y > 0) & (x + width < w) & (y + height < h) & (area < 0.02 * mask.size)
    fill[0] = False
    return mask | fill.astype(np.uint8)[labels] if count > 1 else mask


def _largest(mask: np.ndarray) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return (labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8) if count > 1 else mask


def _spread(image: np.ndarray, core: np.ndarray, sigma: float) -> np.ndarray:
    """The colours of `core` spread outwards: a normalised blur at a quarter of the size, wider where the core is far."""
    h, w = core.shape
    solid = core.astype(np.float32)
    size = ((w + 3) // 4, (h + 3) // 4)
    weighted = cv2.resize(image * solid[..., None], size, interpolation=cv2.INTER_AREA)
    small = np.dstack([weighted, cv2.resize(solid, size, interpolation=cv2.INTER_AREA)])
    spread = cv2.GaussianBlur(small, (0, 0), sigma / 4) + 0.05 * cv2.GaussianBlur(small, (0, 0), 3 * sigma / 4)
    # far from any core both blurs vanish; the mean of the core is as good as anything there
    mean = cv2.mean(image, mask=core)[:3]
    color = (spread[..., :3] + 1e-6 * np.asarray(mean, np.float32)) / (spread[..., 3:] + 1e-6)
    return cv2.resize(color, (w, h), interpolation=cv2.INTER_LINEAR)


def _selfie_model():  # noqa: ANN202 (mediapipe has no types)
    with quiet():
        try:
            from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation
        except ImportError as error:
            raise CaptureError(
                f"without clean plates mattes come from mediapipe, which cannot be imported ({error}). Install it, or put "
                "BACKGROUND/image_<serial>.png into the capture."
            ) from None
        model = SelfieSegmentation(model_selection=0)
        model.process(np.zeros((64, 64, 3), np.uint8))  # what it has to say, it says at its first picture
    return model
