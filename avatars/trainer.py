"""The state of a training and what one step does to it; `avatars.train` runs it."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from avatars import deform, losses
from avatars.avatar import Avatar, Timeline, read_tensors, write_tensors
from avatars.colors import CameraColors
from avatars.densify import divide, plan_refinement, replace_rows
from avatars.errors import AvatarError
from avatars.gaussians import CanonicalGaussians, face_frames, sample_surface, with_colors
from avatars.head import HeadModel
from avatars.pictures import Batch, PictureCache
from avatars.seal import tensors_checksum
from avatars.sequence import TrackedSequence
from avatars.shell import View, carve, sample_shell, seed_colors
from avatars.targets import Target, Targets
from avatars.train import Event, Split, TrainConfig
from avatars.types import HeadPose
from cuda_ext import ops
from cuda_ext.threads import serial_torch

_OWN = ("means", "quats", "log_scales", "logit_opacities", "sh")
_CODES = ("expression", "joints", "rotation", "translation")
_LOOK = 10  # steps from one look at the loss and the pictures to the next
_SPARSE = 17  # a prime: no width of a picture makes columns of it
_CODE_BETAS = (0.9, 0.99)  # equal time constants in first steps: a row's first update is then one learning rate


def _statistics(count: int, device: torch.device) -> ops.SplatStatistics:
    """What densification looks at, and nothing else."""
    return ops.SplatStatistics.zeros(count, device, max_radius=False, contributions=False)


class Trainer:
    """Parameters, optimisers, statistics and the clock. Advance it batch by batch."""

    def __init__(
        self, tracked: TrackedSequence, head: HeadModel, split: Split, config: TrainConfig, cache: PictureCache, device: torch.device
    ) -> None:
        self.tracked, self.split, self.config, self.cache, self.device = tracked, split, config, cache, device
        self.head = head.to(device)
        self.shaped = self.head.settle(tracked.identity.to(device))
        self.model = deform.find(config.deformation)
        self.colors = CameraColors(len(tracked.cameras), config.color_ridge)
        self.targets = Targets(tracked, self.head, self.shaped, self.colors, config, device)
        # Means may lie `reach` from their triangle's centre without cost: hair reaches farther than skin.
        self.penalties = ops.Penalties(
            config.position_weight, config.scale_weight, config.opacity_weight, config.max_scale, config.deform.regulariser
        )
        self.lpips = None
        if config.lpips_weight > 0:
            from avatars.metrics import load_lpips

            self.lpips = load_lpips(config.lpips_weights)
        self.step, self.elapsed, self.psnr, self.loss_mean = 0, 0.0, 0.0, 0.0
        self.first_step, self.first_elapsed, self.mark = 0, 0.0, 0.0
        self.params: dict[str, Tensor] = {}

    # start

    def initialise(self) -> None:
        """Place the Gaussians: on the mesh, and where the masks show more than the mesh; coloured from the pictures."""
        config, head = self.config, self.head.to("cpu")
        generator = torch.Generator().manual_seed(config.seed)
        neutral = head.vertices(self.tracked.identity, head.neutral())[0]
        frames = face_frames(neutral, head.faces)
        views = self._views(6)
        total = max(int(config.gaussians * config.initial), 1)
        shell_count = int(total * config.shell)
        shell = sample_shell(head, neutral, frames, views, shell_count, generator, config.sh_degree) if shell_count else None
        surface = sample_surface(head, neutral, total - (0 if shell is None else len(shell)), generator, degree=config.sh_degree)
        surface = carve(surface, head, views)
        gaussians = surface if shell is None else CanonicalGaussians.cat([surface, shell])
        colors = seed_colors(gaussians, head, views[:3])
        gaussians = with_colors(gaussians, colors)
        size = deform.code_size(head.E, head.J)
        parameters = self.model.create(config.deform, gaussians, size, generator)
        reach = (gaussians.means.norm(dim=1) + 1).clamp_min(1.5)
        codes = {k: getattr(self.tracked.codes, k).clone() for k in _CODES}
        self._adopt(gaussians, parameters, codes, reach)

    def _views(self, count: int) -> list[View]:
        """Posed frames spread over the training frames, with all training cameras."""
        frames = self.split.frames[np.unique(np.linspace(0, len(self.split.frames) - 1, count).round().astype(int))]
        views = []
        head = self.head.to("cpu")
        for t in frames.tolist():
            ids = np.flatnonzero(self.split.cameras & self.tracked.valid[t]).tolist()
            pictures = np.stack([self.cache.get(t, c) for c in ids])
            vertices = head.vertices(self.tracked.identity, self.tracked.codes[t])[0]
            posed = face_frames(vertices, head.faces)
            views.append(View(vertices, posed, self.tracked.cameras[ids], pictures[..., :3], pictures[..., 3]))
        return views

    def _adopt(self, gaussians: CanonicalGaussians, parameters: dict[str, Tensor], codes: dict[str, Tensor], reach: Tensor) -> None:
        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().to(self.device).contiguous().clone().requires_grad_()

        self.face_ids = gaussians.face_ids.to(self.device)
        self.reach = reach.to(self.device)
        self.params = {k: leaf(getattr(gaussians, k)) for k in _OWN} | {f"deform.{k}": leaf(v) for k, v in parameters.items()}
        self.codes = {k: leaf(v).requires_grad_(False) for k, v in codes.items()}
        frames = face_frames(self.head.vertices(self.shaped, self.head.neutral())[0], self.head.faces)
        self.face_sizes = frames.sizes.detach()
        self.unit = float(self.face_sizes[self.face_ids].median())  # metres per triangle unit, of a typical Gaussian
        rates = self._rates(0.0)
        self.adam = ops.Adam(
            self.params,
            {k: r.lr for k, r in rates.items()},
            heads={k: r.head for k, r in rates.items() if r.head is not None},
            tails={k: r.tail for k, r in rates.items() if r.head is not None},
            factored=(basis := [f"deform.{name}" for name in getattr(self.model, "FACTORED", ())]),
            halves=[*basis, *_OWN],
        )
        self.code_adam = ops.Adam(self.codes, self._code_rates(0.0), betas=_CODE_BETAS)
        self.statistics = _statistics(len(self.face_ids), self.device)

    # schedule

    @property
    def fraction(self) -> float:
        """Share of the budget that is used."""
        c = self.config
        parts = [self.step / c.steps if c.steps > 0 else 0.0, self.elapsed / (60 * c.minutes) if c.minutes > 0 else 0.0]
        return min(max(parts), 1.0)

    def _rates(self, fraction: float) -> dict[str, deform.Rate]:
        c = self.config
        decay = c.mean_decay**fraction
        slow = decay**0.5
        own = {
            "means": c.mean_rate * decay / self.unit, "quats": c.quat_rate * slow, "log_scales": c.scale_rate * slow,
            "logit_opacities": c.opacity_rate * slow, "sh": c.color_rate * slow,
        }  # fmt: skip
        rates = {k: deform.Rate(v) for k, v in own.items()}
        rates["sh"] = deform.Rate(own["sh"], 3, own["sh"] / 10)
        return rates | {f"deform.{k}": r for k, r in self.model.learning_rates(c.deform, own).items()}

    def _code_rates(self, fraction: float) -> dict[str, float]:
        c = self.config
        slow = c.mean_decay ** (0.5 * fraction)
        rates = {"expression": c.expression_rate, "joints": c.joint_rate, "rotation": c.joint_rate, "translation": c.translation_rate}
        return {k: v * slow for k, v in rates.items()}

    # one step

    def advance(self, batch: Batch) -> Literal["step", "refine"]:
        """Render, compare, move the parameters; densify when it is time."""
        with serial_torch():
            return self._advance(batch)

    def _advance(self, batch: Batch) -> Literal["step", "refine"]:
        if self.mark == 0.0:
            self.mark = time.monotonic()
        c = self.config
        fraction = self.fraction
        for k, rate in self._rates(fraction).items():
            self.adam.lrs[k] = rate.lr
            if rate.head is not None:
                self.adam.tails[k] = rate.tail
        self.code_adam.lrs.update(self._code_rates(fraction))
        self._descend(batch, fraction)
        self.step += 1
        kind: Literal["step", "refine"] = "step"
        if self.step % c.refine_every == 0:
            if self.step >= 2 * c.refine_every:
                self.colors.solve()
            self._hold_gauge()
            if fraction >= c.refine_from:
                self._refine(fraction)
                kind = "refine"
        now = time.monotonic()  # waiting for pictures and writing checkpoints count as training
        self.elapsed, self.mark = self.elapsed + now - self.mark, now
        return kind

    def pose(self, t: int, tuned: bool) -> HeadPose:
        """The codes of frame `t`; `tuned`: leaves that collect gradients, of this one frame instead of all."""
        return HeadPose(*(self.codes[k].detach()[t : t + 1].requires_grad_(tuned) for k in _CODES))

    def loss(self, pose: HeadPose, target: Target, tuned: bool) -> tuple[Tensor, Tensor]:
        """The scalar to minimise, and the rendered pictures [C, H, W, 3] of a frame in `pose`. `tuned`: corrections apply."""
        c = self.config
        local, vertices = self._local(), self.head.vertices(self.shaped, pose).squeeze(0)
        means, quats, scales, sh, cost = deform.carried(
            self.model if tuned else None,
            self._deform_params(),
            local,
            deform.frame_code(pose),
            vertices,
            self.head.faces,
            self.penalties,
            self.reach,
        )
        cameras = target.cameras
        splat = ops.splat(
            means, quats, scales, local.logit_opacities, sh, cameras.viewmats, cameras.Ks, cameras.width, cameras.height,
            backgrounds=target.backgrounds, logit_opacities=True, depth=False, statistics=self.statistics,
        )  # fmt: skip
        loss = losses.pictures(splat.color, splat.alpha, target.pictures, target.mattes, target.weights, c.ssim_weight, c.coverage_weight)
        loss = loss + cost
        if self.lpips is not None:
            loss = loss + c.lpips_weight * self.lpips(splat.color, target.pictures).mean()
        return loss, splat.color.detach()

    def _descend(self, batch: Batch, fraction: float) -> None:
        c = self.config
        target = self.targets.of(batch, self.step, fraction < c.half_until)
        tuned = fraction >= c.deform_start
        pose = self.pose(batch.t, tuned and max(self.code_adam.lrs.values()) > 0)
        loss, color = self.loss(pose, target, tuned)
        self.adam.descend(loss)
        grads = {k: grad for k in _CODES if (grad := getattr(pose, k).grad) is not None}
        if grads:
            self.code_adam.step(torch.tensor([batch.t], device=self.device), grads)
        if self.step % _LOOK == 0:
            if not bool(loss.isfinite()):
                raise AvatarError(
                    f"Training diverged: the loss is not a number at step {self.step}. The same command goes on from the last checkpoint; if it "
                    "happens again, lower mean_rate and scale_rate."
                )
            self._observe(color, target, float(loss.detach()))

    @torch.no_grad()
    def _observe(self, rendered: Tensor, target: Target, loss: float) -> None:
        """Running PSNR, and the sums of the colour corrections, over one in `_SPARSE` pixels where they show the foreground."""
        first = self.step % _SPARSE
        pixels = first + _SPARSE * (target.mattes.flatten()[first::_SPARSE] > 0.98).nonzero()[:, 0]
        found, wanted = (p.reshape(-1, 3).index_select(0, pixels) for p in (rendered, target.pictures))
        recorded = target.recorded(pixels)
        psnr = -10 * math.log10(max(float((found - wanted).square().mean()), 1e-8)) if len(pixels) else 0.0
        mix = 0.0 if self.psnr == 0 else 0.9
        self.psnr, self.loss_mean = mix * self.psnr + (1 - mix) * psnr, mix * self.loss_mean + (1 - mix) * loss
        counts = torch.bincount(pixels // target.mattes[0].numel(), minlength=len(target.ids)).tolist()
        for camera, own, picture in zip(target.ids, found.cpu().split(counts), recorded.cpu().split(counts), strict=True):
            self.colors.observe(camera, own, picture)

    @torch.no_grad()
    def _hold_gauge(self) -> None:
        """Take back what all tuned codes have in common.

        If every trained frame moved by the same and the Gaussians moved back, no training picture would tell; held-out frames, whose codes
        nobody tunes, would be off by that much.
        """
        frames = torch.from_numpy(self.split.frames).to(self.device)
        for key, codes in self.codes.items():
            tracked = getattr(self.tracked.codes, key).to(codes)
            codes[frames] -= (codes[frames] - tracked[frames]).mean(0)

    def _local(self) -> CanonicalGaussians:
        return CanonicalGaussians(self.face_ids, *(self.params[k] for k in _OWN))

    def _deform_params(self) -> dict[str, Tensor]:
        return {k.removeprefix("deform."): v for k, v in self.params.items() if k.startswith("deform.")}

    # densification

    @torch.no_grad()
    def _refine(self, fraction: float) -> None:
        c = self.config
        gaussians = self._local().detach()
        sizes = gaussians.log_scales.amax(1).exp() * self.face_sizes[self.face_ids]
        growing = fraction <= c.refine_until
        # The number of Gaussians follows a line from what there is at the start to the budget.
        start = c.gaussians * c.initial
        along = min((fraction - c.refine_from) / max(c.refine_until - c.refine_from, 1e-9), 1.0)
        goal = int(start + (c.gaussians - start) * along) if growing else 0
        s = self.statistics
        plan = plan_refinement(gaussians, s.grad_norm / s.count.clamp_min(1), s.count, sizes, goal=goal, split_size=c.split_size)
        if plan.empty:
            s.reset()
            return
        generator = torch.Generator().manual_seed(hash((c.seed, self.step)) & 0x7FFFFFFF)
        changed, children = divide(gaussians[plan.parents], plan.split, generator)
        capacity = int(1.02 * c.gaussians)
        for name in ("means", "log_scales", "logit_opacities"):
            self.params[name][plan.parents] = getattr(changed, name)
        self.reach = replace_rows(self.reach, plan, self.reach[plan.parents], capacity)
        self.face_ids = replace_rows(self.face_ids, plan, children.face_ids, capacity)
        for name, param in self.params.items():
            if name not in _OWN and not name.startswith(f"deform.{deform.PER_GAUSSIAN}"):
                continue
            rows = replace_rows(param, plan, getattr(children, name) if name in _OWN else param[plan.parents], capacity)
            moments = [replace_rows(moment[name], plan, None, capacity) for moment in (self.adam.m, self.adam.v)]
            if rows is not param:
                self.params[name] = rows.requires_grad_()
                self.adam.replace(name, self.params[name], *moments)
        if plan.result == plan.count:
            s.reset()
        else:
            self.statistics = _statistics(plan.result, self.device)

    def rest(self) -> None:
        """The time until the next step does not count as training."""
        self.mark = 0.0

    # persistence and results

    def event(self, kind: Literal["start", "step", "refine", "checkpoint", "paused", "done"]) -> Event:
        """The figures of the moment."""
        seconds = self.elapsed - self.first_elapsed
        rate = (self.step - self.first_step) / seconds if seconds > 0 else 0.0
        fraction = self.fraction
        left = self.elapsed * (1 - fraction) / fraction if fraction > 0 else 0.0
        return Event(kind, self.step, fraction, self.elapsed, left, rate, len(self.face_ids), self.psnr, self.loss_mean)

    def save(self, path: Path, key: str) -> None:
        """Write everything, atomically."""
        tensors = {f"params.{k}": v for k, v in self.params.items()} | {f"codes.{k}": v for k, v in self.codes.items()}
        tensors |= {f"adam.{k}": v for k, v in self.adam.state_dict().items()}
        tensors |= {f"code_adam.{k}": v for k, v in self.code_adam.state_dict().items()}
        tensors |= {f"colors.{k}": v for k, v in self.colors.state().items()}
        tensors |= {"face_ids": self.face_ids, "reach": self.reach}
        tensors |= {f"statistics.{k}": v for k, v in self.statistics.sums.items()}
        clock = {"step": self.step, "elapsed": self.elapsed, "psnr": self.psnr, "loss": self.loss_mean, "unit": self.unit, "key": key}
        text = json.dumps(clock)
        write_tensors(path, tensors, {"clock": text, "checksum": tensors_checksum(text, tensors)})

    def resume(self, path: Path, key: str) -> bool:
        """Take up a checkpoint of the same inputs; False when there is none. AvatarError when it is damaged."""
        if not path.exists():
            return False
        from safetensors import safe_open

        remedy = f"Delete {path} to train from the start."
        tensors = read_tensors(path, remedy)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            if metadata.get("checksum", "") not in ("", tensors_checksum(metadata["clock"], tensors)):
                raise ValueError("its checksum is not that of its content")
            clock = json.loads(metadata["clock"])
            if clock["key"] != key:
                return False
            gaussians = CanonicalGaussians(tensors["face_ids"], *(tensors[f"params.{k}"] for k in _OWN))
            parameters = {k.removeprefix("params.deform."): v for k, v in tensors.items() if k.startswith("params.deform.")}
            self._adopt(gaussians, parameters, {k: tensors[f"codes.{k}"] for k in _CODES}, tensors["reach"])
            self.unit = float(clock["unit"])  # of the Gaussians at the start
            for prefix, adam in (("adam.", self.adam), ("code_adam.", self.code_adam)):
                adam.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
            self.colors.load({k.removeprefix("colors."): v for k, v in tensors.items() if k.startswith("colors.")})
            for k, sums in self.statistics.sums.items():
                sums.copy_(tensors[f"statistics.{k}"])
            self.step, self.elapsed, self.psnr, self.loss_mean = clock["step"], clock["elapsed"], clock["psnr"], clock["loss"]
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise AvatarError(f"{path} is damaged: {reason}. {remedy}") from None
        self.first_step, self.first_elapsed = self.step, self.elapsed
        return True

    def avatar(self, key: str = "") -> Avatar:
        """What has been learnt so far, as an avatar on the CPU; held-out frames keep their tracked codes."""
        names = self.tracked.cameras.names
        trained = [n for n, use in zip(names, self.split.cameras, strict=True) if use]
        held_out = tuple(n for n in names if n not in trained)
        codes = HeadPose(*(self.codes[k].detach().cpu().clone() for k in _CODES))
        timeline = Timeline(
            codes, self.tracked.segments, self.tracked.fps, self.tracked.cameras, str(self.tracked.folder.resolve()), held_out,
            self.split.held_out_sequences,
        )  # fmt: skip
        with torch.no_grad():
            trained_codes = torch.stack([deform.frame_code(codes[int(t)]) for t in self.split.frames])
            parameters = self.model.settle({k: v.detach().cpu().clone() for k, v in self._deform_params().items()}, trained_codes)
        provenance = {
            "inputs": key, "steps": self.step, "seconds": self.elapsed, "psnr": self.psnr, "capture": self.tracked.capture,
            "held_out_last": self.config.held_out_last,
        }  # fmt: skip
        return Avatar(
            self.head.to("cpu"), self.tracked.identity, self._local().detach().to("cpu"), self.config.deformation, self.config.deform,
            parameters, {n: self.colors.affine[i] for i, n in enumerate(names) if n in trained}, timeline, provenance,
        )  # fmt: skip
