"""report.json and a self-contained report.html: figures, curves, and truth beside render beside error.

The page needs no network: pictures are base64 JPEGs, curves are inline SVG, and everything that came from outside is escaped.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avatars.evaluate import Evaluation, Example
from avatars.files import atomic_path, write_json

_NAMES = {"novel_view": "Novel view", "self_reenactment": "Self-reenactment"}
_EXPLAINED = {
    "novel_view": "Cameras that training never saw, at trained moments.",
    "self_reenactment": "Sequences that training never saw, driven by their tracked codes, from every camera.",
}
_REGIONS = (("image", "Whole picture"), ("foreground", "Foreground"), ("mouth", "Mouth"), ("eyes", "Eyes"))
_COLORS = ("#2f7fd8", "#d9662b", "#3a9b57", "#9457c4", "#c2a02a", "#c43f6b", "#4bb0b8", "#7a7a7a")


def write_report(evaluation: Evaluation, folder: str | Path, events: str | Path | None = None) -> Path:
    """Write report.json and report.html into `folder`; returns the page. `events`: the events.jsonl of the training."""
    folder = Path(folder)
    write_json(folder / "report.json", _finite(evaluation.report))
    page = folder / "report.html"
    with atomic_path(page) as temporary:
        temporary.write_text(_page(evaluation, _read_events(events)), encoding="utf-8")
    return page


def _read_events(path: str | Path | None) -> list[dict[str, Any]]:
    if path is None or not Path(path).exists():
        return []
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a killed training
            continue
    # A resumed training repeats the steps after its checkpoint: the later record counts.
    return sorted({r["step"]: r for r in records}.values(), key=lambda r: r["step"])


def _page(evaluation: Evaluation, events: list[dict[str, Any]]) -> str:
    r = evaluation.report
    title = f"Avatar of {html.escape(str(r.get('capture', '')))}"
    body = [f"<h1>{title}</h1>", _tiles(r)]
    for protocol, name in _NAMES.items():
        if r.get(protocol) is None:
            continue
        body.append(f"<section><h2>{name}</h2><p class=note>{_EXPLAINED[protocol]}</p>{_table(r[protocol])}")
        body += [_example(e) for e in evaluation.examples if e.protocol == protocol]
        body.append(_protocol_curve(evaluation.curves[protocol]))
        body.append("</section>")
    if len(events) > 1:
        steps = [e["step"] for e in events]
        body.append("<section><h2>Training</h2>")
        body.append(_chart({"PSNR of training pictures": (steps, [e["psnr"] for e in events])}, "step", "dB"))
        body.append(_chart({"Gaussians": (steps, [e["gaussians"] for e in events])}, "step", "count"))
        body.append("</section>")
    body.append(f"<section><h2>All figures</h2><pre>{html.escape(json.dumps(_finite(r), indent=1))}</pre></section>")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{title}</title><style>{_STYLE}</style><main>{''.join(body)}</main></html>"
    )


def _tiles(r: dict[str, Any]) -> str:
    def value(x: Any, unit: str, digits: int = 1) -> str | None:
        return None if x is None else f"{x:.{digits}f}<small>{unit}</small>"

    seconds = r.get("seconds", {})
    tiles = [
        ("Novel view, foreground", value(_dig(r, "novel_view", "foreground", "psnr"), " dB", 2)),
        ("Self-reenactment, foreground", value(_dig(r, "self_reenactment", "foreground", "psnr"), " dB", 2)),
        ("Mesh error", value(_dig(r, "tracking", "mesh_mm"), " mm", 2)),
        ("Landmark error", value(_dig(r, "tracking", "landmark_px"), " px", 2)),
        ("Rendering", value(_dig(r, "render", "fps"), " frames/s", 0)),
        ("Gaussians", f"{r.get('gaussians', 0):,}".replace(",", " ")),
        ("Model", value(r.get("model_mb"), " MB")),
        ("Tracking", value(seconds.get("track"), " s", 0)),
        ("Training", value(seconds.get("train"), " s", 0)),
    ]
    cells = "".join(f"<div class=tile><b>{v}</b><span>{k}</span></div>" for k, v in tiles if v is not None)
    return f"<div class=tiles>{cells}</div>"


def _table(figures: dict[str, Any]) -> str:
    metrics = [m for m in ("psnr", "ssim", "lpips") if figures.get(m) is not None]
    names = {"psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS"}
    rows = []
    for key, label in _REGIONS:
        source = figures if key == "image" else figures.get(key, {})
        cells = "".join(f"<td>{_number(source.get(m), 2 if m == 'psnr' else 3)}</td>" for m in metrics)
        rows.append(f"<tr><th>{label}</th>{cells}</tr>")
    head = "".join(f"<th>{names[m]}</th>" for m in metrics)
    return f"<table><tr><th>{figures.get('pictures', 0)} pictures</th>{head}</tr>{''.join(rows)}</table>"


def _example(e: Example) -> str:
    error = np.abs(e.truth.astype(np.float32) - e.rendered.astype(np.float32)).mean(-1) / 255
    label = html.escape(f"{e.sequence} frame {e.frame}, camera {e.camera}: {e.psnr:.2f} dB over the foreground")
    pictures = (("truth", e.truth), ("render", e.rendered), ("error × 5", heat(5 * error)))
    cells = "".join(f"<figure><img alt='{n}' src='{_jpeg(p)}'><figcaption>{n}</figcaption></figure>" for n, p in pictures)
    return f"<p class=label>{label}</p><div class=triple>{cells}</div>"


def heat(value: np.ndarray) -> np.ndarray:
    """0–1 [H, W] → uint8 [H, W, 3], black over violet and orange to white."""
    stops = np.array([[0, 0, 0], [70, 20, 110], [200, 60, 60], [250, 170, 50], [255, 255, 255]], np.float32)
    x = np.clip(value, 0, 1) * (len(stops) - 1)
    low = np.minimum(x.astype(int), len(stops) - 2)
    f = (x - low)[..., None]
    return (stops[low] * (1 - f) + stops[low + 1] * f + 0.5).astype(np.uint8)


def _protocol_curve(records: list[dict[str, Any]]) -> str:
    """Foreground PSNR per frame, one line per sequence; and the table of cameras."""
    levels = camera_levels(records)
    lines = {s: frame_curve([r for r in records if r["sequence"] == s], levels) for s in dict.fromkeys(r["sequence"] for r in records)}
    cells = "".join(f"<td>{html.escape(c)}<br><b>{_number(level, 1)}</b></td>" for c, level in sorted(levels.items()))
    label = "dB over the foreground" + (", differences between cameras taken out" if len(levels) > 1 else "")
    return _chart(lines, "frame", label) + f"<table class=cameras><tr>{cells}</tr></table>"


def camera_levels(records: list[dict[str, Any]]) -> dict[str, float]:
    """Camera → mean foreground PSNR; NaN where no picture of it shows the person."""
    levels: dict[str, list[float]] = {}
    for r in records:
        levels.setdefault(r["camera"], []).extend([] if math.isnan(r["psnr.foreground"]) else [r["psnr.foreground"]])
    return {c: float(np.mean(values)) if values else math.nan for c, values in levels.items()}


def frame_curve(records: list[dict[str, Any]], levels: Mapping[str, float]) -> tuple[list[float], list[float]]:
    """Frames and their mean foreground PSNR as if every camera were equally hard: neighbouring frames are measured by different cameras."""
    whole = float(np.nanmean(list(levels.values()))) if any(not math.isnan(v) for v in levels.values()) else math.nan
    by_frame: dict[int, list[float]] = {}
    for r in records:
        if not math.isnan(r["psnr.foreground"]):
            by_frame.setdefault(r["frame"], []).append(r["psnr.foreground"] - levels[r["camera"]] + whole)
    frames = sorted(by_frame)
    return [float(f) for f in frames], [float(np.mean(by_frame[f])) for f in frames]


def _chart(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str) -> str:
    """An inline SVG line chart."""
    width, height, left, bottom = 760, 190, 52, 30
    xs = [x for line in lines.values() for x in line[0]]
    ys = [y for line in lines.values() for y in line[1] if math.isfinite(y)]
    if not xs or not ys:
        return ""
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    pad = max(0.06 * (y1 - y0), 1e-3 * max(abs(y1), 1e-9))
    y0, y1, x1 = y0 - pad, y1 + pad, max(x1, x0 + 1)

    def at(x: float, y: float) -> str:
        return f"{left + (x - x0) / (x1 - x0) * (width - left - 8):.1f},{8 + (y1 - y) / (y1 - y0) * (height - bottom - 8):.1f}"

    parts = []
    for y in round_ticks(y0, y1):
        a, b = at(x0, y), at(x1, y)
        parts.append(
            f"<polyline class=grid points='{a} {b}'/><text x={left - 6} y={float(a.split(',')[1]) + 4:.0f} text-anchor=end>{_tick(y)}</text>"
        )
    for i, (name, (px, py)) in enumerate(lines.items()):
        color = _COLORS[i % len(_COLORS)]
        points = [at(x, y) for x, y in zip(px, py, strict=True) if math.isfinite(y)]
        if len(points) == 1:
            cx, cy = points[0].split(",")
            parts.append(f"<circle cx={cx} cy={cy} r=3 fill='{color}'/>")
        parts.append(f"<polyline class=line stroke='{color}' points='{' '.join(points)}'/>")
        parts.append(
            f"<text x={left + 10 + 190 * (i % 3)} y={20 + 15 * (i // 3)} style='fill:{color}' class=key>{html.escape(name)}</text>"
        )
    parts.append(f"<text x={width - 8} y={height - 6} text-anchor=end>{x_label} {_tick(x0)}–{_tick(x1)}</text>")
    parts.append(f"<text x={left} y={height - 6}>{y_label}</text>")
    return f"<svg viewBox='0 0 {width} {height}' role=img>{''.join(parts)}</svg>"


def round_ticks(low: float, high: float) -> list[float]:
    """Two to six round numbers (1, 2 or 5 times a power of ten apart) between `low` and `high`."""
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _tick(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.4g}"


def _jpeg(picture: np.ndarray) -> str:
    import cv2

    ok, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not ok:
        raise ValueError(f"a picture of shape {picture.shape} could not be encoded")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _dig(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _finite(value: Any) -> Any:
    """NaN has no place in JSON: None instead."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_STYLE = """
:root{color-scheme:light dark;--ink:#1d2126;--soft:#667;--line:#d9dde3;--card:#f5f6f8;--page:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#98a0ab;--line:#333a44;--card:#1d2229;--page:#14181d}}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 80px}
h1{font-size:28px;font-weight:650;margin:0 0 18px}h2{font-size:20px;margin:44px 0 4px}
.note,.label,figcaption,.tile span{color:var(--soft)}.note{margin:0 0 12px}.label{margin:18px 0 4px;font-size:13px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:10px}
.tile{background:var(--card);border-radius:10px;padding:12px 14px;display:flex;flex-direction:column}
.tile b{font-size:24px;font-weight:620}.tile small{font-size:13px;font-weight:400}.tile span{font-size:13px}
table{border-collapse:collapse;margin:6px 0 10px;font-variant-numeric:tabular-nums}
td,th{padding:5px 14px 5px 0;border-bottom:1px solid var(--line);text-align:left;font-weight:400}
tr:first-child th{color:var(--soft);font-size:13px}.cameras td{font-size:11px;color:var(--soft);padding-right:10px}
.cameras{display:block;overflow-x:auto}.cameras b{color:var(--ink);font-size:13px}
.triple{display:grid;grid-template-columns:repeat(3,1fr);gap:8px}figure{margin:0}img{width:100%;border-radius:6px;display:block}
figcaption{font-size:12px;padding-top:2px}svg{width:100%;margin:12px 0;background:var(--card);border-radius:10px}
svg text{font-size:11px;fill:var(--soft)}svg .key{font-weight:600}.grid{stroke:var(--line);fill:none}.line{fill:none;stroke-width:1.8}
pre{background:var(--card);border-radius:10px;padding:14px;overflow:auto;font-size:12px}
"""
