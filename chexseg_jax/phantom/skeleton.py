"""Attenuation of the bones of the frontal view: ribs, clavicles, shoulder blades, humeri, spine."""

import numpy as np

from chexseg_jax.phantom.geometry import Map, curve, dome, ramp
from chexseg_jax.phantom.patient import Patient


def frontal_bones(patient: Patient, u: Map, v: Map, outer: Map, *, ap: bool, pixel: float) -> Map:
    """Draw all bones of a frontal view.

    Args:
      patient: owner of the bones.
      u, v: body coordinates of every pixel.
      outer: half-width of the rib cage at every pixel.
      ap: anteroposterior film: clavicles higher, shoulder blades over the lungs.
      pixel: body units per pixel.
    """
    bones = _ribs(patient, u, v, outer, pixel) + _spine(patient, u, v)
    bones = bones + _clavicles(patient, u, v, ap) + _shoulders(u, v, ap)
    return bones.astype(np.float32)


def _ribs(patient: Patient, u: Map, v: Map, outer: Map, pixel: float) -> Map:
    """Ribs: posterior arcs (from the spine up, out and down) and anterior arcs (from the flank down and in).

    All ribs are one periodic function: straightened by their common shape, they are bands at whole numbers.
    """
    a = np.minimum(np.abs(u) / outer, 1.0)
    inside = ramp(outer + 0.03 - np.abs(u), 0.012)
    first = patient.apex + 0.02 + patient.rib_phase
    gap = patient.rib_spacing
    posterior = 0.42 * a**3.2 - 0.10 * a
    anterior = 0.34 + 0.72 * (1 - a) ** 0.8
    bones = _bands((v - first - posterior) / gap, gap, 0.046, 10, pixel) * (
        inside * ramp(np.abs(u) - 0.09, 0.02)
    )
    bones += _bands((v - first - anterior) / gap, gap, 0.052, 7, pixel) * (
        inside * ramp(a - 0.45, 0.03) * 0.5
    )
    rim = np.exp(-(((np.abs(u) - outer - 0.015) / 0.022) ** 2)) * ramp(v - patient.apex - 0.12, 0.05)
    return bones + 0.22 * rim


def _bands(q: Map, gap: float, half: float, count: int, pixel: float) -> Map:
    """Draw bones at the whole numbers 0..count-1 of q, `gap` units apart, as tubes with a dense rim."""
    steep = np.hypot(np.gradient(q, axis=0), np.gradient(q, axis=1)) / np.float32(pixel)  # per body unit
    number = np.clip(np.round(q), 0, count - 1)
    distance = np.abs(q - number) / np.maximum(steep, 1e-3)
    tube = dome((half - distance) / half)
    rim = np.exp(-(((distance - 0.8 * half) / (0.25 * half)) ** 2))
    return 0.27 * tube + 0.17 * rim


def _spine(patient: Patient, u: Map, v: Map) -> Map:
    """Vertebral bodies with end plates, pedicles and spinous processes, slightly swayed."""
    centre = patient.sway * np.sin(2.2 * v + 0.6)
    off = np.abs(u - centre)
    q = v / (0.9 * patient.rib_spacing) + 0.3
    plate = np.abs(q - np.floor(q) - 0.5)
    density = 0.36 + 0.16 * ramp(plate - 0.40, 0.02) - 0.20 * ramp(plate - 0.47, 0.01)
    body = dome((0.105 - off) / 0.06) * density
    pedicles = np.exp(-(((off - 0.065) / 0.018) ** 2) - ((plate - 0.15) / 0.10) ** 2)
    process = np.exp(-((off / 0.014) ** 2) - ((plate - 0.2) / 0.12) ** 2)
    return body + 0.14 * pedicles + 0.10 * process


def _clavicles(patient: Patient, u: Map, v: Map, ap: bool) -> Map:
    """Clavicles: S-shaped, from the sternum out to the shoulder; higher on AP films."""
    a = np.abs(u)
    bends = [(0.08, 0.27), (0.2, 0.22), (0.45, 0.13), (0.75, 0.01), (1.0, -0.05), (1.2, -0.04), (1.4, -0.07)]
    line = curve(bends, 0.04)(a)
    distance = np.abs(v - (patient.apex + line - (0.05 if ap else 0.0))) * 0.97
    half = curve([(0.1, 0.065), (0.3, 0.042), (1.0, 0.042), (1.3, 0.05)])(a)
    rim = np.exp(-(((distance - 0.8 * half) / 0.012) ** 2))
    extent = ramp(a - 0.12, 0.012) * ramp(1.32 - a, 0.02)
    return extent * (0.38 * dome((half - distance) / half) + 0.15 * rim)


def _shoulders(u: Map, v: Map, ap: bool) -> Map:
    """Shoulder blades (turned out on PA films) and heads of the humeri."""
    a = np.abs(u) - (0.0 if ap else 0.13)
    border = curve([(-1.0, 0.86), (-0.7, 0.80), (-0.3, 0.86), (0.0, 1.0)])(v)
    tall = ramp(v + 0.98, 0.04) * ramp(0.02 - v, 0.04)
    blade = 0.18 * ramp(a - border, 0.008) * ramp(1.2 - a, 0.06) * tall
    blade += 0.14 * np.exp(-(((a - border - 0.012) / 0.016) ** 2)) * tall
    head = dome((0.17 - np.hypot(np.abs(u) - 1.36, v + 0.94)) / 0.17) * 0.45
    shaft = dome((0.085 - np.abs(np.abs(u) - 1.42 - 0.06 * (v + 0.8))) / 0.05) * ramp(v + 0.86, 0.03) * 0.55
    return blade + np.maximum(head, shaft)
