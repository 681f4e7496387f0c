// What the kernels mean: the one place where the constants of every operator are stated. The CPU and the CUDA
// library include this file; cuda_ext/reference/ mirrors it and a test compares the two, number by number.
//
// Camera      OpenCV axes (x right, y down, z forward); K = [fx skew cx; 0 fy cy; 0 0 1], any principal point.
//             The centre of the first pixel is (0.5, 0.5). viewmats are world → camera, rigid.
// Projection  EWA (Zwicker et al. 2001): cov2d = J W Σ Wᵀ Jᵀ + eps2d·I. The Jacobian J is evaluated at x/z and y/z
//             clamped to the image plus AV_FRUSTUM_MARGIN of its (full) size on each side divided by two, as gsplat does:
//                 x/z in [-(cx + m·W)/fx, (W - cx + m·W)/fx] with m = AV_FRUSTUM_MARGIN (0.3 · 0.5 = 0.15).
//             The gradient through a clamped coordinate of J is zero; the mean itself is never clamped.
//             Antialiased: the opacity is multiplied by sqrt(max(0, det(cov2d - eps2d·I) / det(cov2d))) (Mip-Splatting).
// Culling     A Gaussian is dropped (radii 0, no contribution, zero gradient) when any of its inputs is not finite,
//             its quaternion is zero, z < near, det(cov2d) <= AV_DET_MIN or not finite, its opacity (after compensation)
//             < AV_ALPHA_MIN, a colour is not below AV_COLOR_MAX in size, or the box below does not touch the image.
// Extent      Exact for the alpha cut-off: q_max = 2·ln(opacity / AV_ALPHA_MIN), half-size of the box
//             sqrt(q_max · cov2d_xx), sqrt(q_max · cov2d_yy); radii are these rounded up. Nothing is lost outside.
// Colour      max(0, Σ_k sh_k Y_k(unit(mean - camera centre)) + 0.5), real spherical harmonics of degree ≤ 3.
// Alpha       min(AV_ALPHA_MAX, opacity · exp(-½ dᵀ Σ2d⁻¹ d)); contributions below AV_ALPHA_MIN are skipped, and
//             the gradient of a clamped alpha to opacity and shape is zero.
// Order       Front to back by camera z, as float32 bits; ties by index. The order has no gradient.
// Stopping    A pixel may stop once its transmittance is below AV_TRANSMITTANCE_MIN; whether it does, and at what
//             granularity (per pixel, per 4×4 block, per chunk of a tile), is the implementation's choice. The reference
//             never stops. Images therefore differ by at most AV_TRANSMITTANCE_MIN · (largest colour).
// Background  color = Σ_i w_i c_i + T·background with w_i = alpha_i T_i; alpha = 1 - T;
//             depth = Σ_i w_i z_i / max(alpha, AV_DEPTH_ALPHA_MIN), 0 where alpha is 0.
// Statistics  grad_norm[n]    += Σ_cameras ‖(W/2 · ∂L/∂u, H/2 · ∂L/∂v)‖, the units of 3DGS and gsplat (pixel gradients
//                                scaled by half the image size), one term per camera that sees the Gaussian
//             count[n]        += number of cameras whose image its box touches (radii > 0)
//             max_radius[n]    = max(itself, larger of the two radii in pixels, over cameras)
//             contributions[n]+= Σ_cameras Σ_pixels alpha_i T_i
#pragma once

#define AV_ALPHA_MAX 0.999f
#define AV_ALPHA_MIN 0.00392156862745098f  // 1/255
#define AV_TRANSMITTANCE_MIN 4e-6f
#define AV_DET_MIN 1e-20f
#define AV_FRUSTUM_MARGIN 0.15f
#define AV_DEPTH_ALPHA_MIN 1e-10f
#define AV_TILE 16  // pixels per side of a tile
#define AV_COLOR_MAX 1e30f  // colours beyond this would overflow the image
#define AV_COORD_MAX 1e6f  // projected means beyond this many pixels are dropped: float32 has no subpixels there

// Structural similarity (Wang et al. 2004): Gaussian window, population statistics, images in 0..1.
#define AV_SSIM_RADIUS 5
#define AV_SSIM_SIGMA 1.5
#define AV_SSIM_C1 1e-4f  // 0.01²
#define AV_SSIM_C2 9e-4f  // 0.03²

// Volumes, see volume.h.
#define AV_TAU_MAX 80.0f            // optical depth of one sample at most
#define AV_MARCH_STEPS 4194304.0f  // of one ray at most: beyond, float32 cannot tell neighbours apart
