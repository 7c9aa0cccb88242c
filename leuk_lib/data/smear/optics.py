"""Image formation: Beer-Lambert absorption, point spread, illumination, sensor noise, JPEG."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.smear.individual import Patient
from leuk_lib.data.smear.shapes import Canvas, Map

# Optical density (natural logarithm) per unit of stain in the camera's (R, G, B), fitted by eye to May-Gruenwald-Giemsa
# micrographs: nuclei (1.2, 1.9, 0.4), red cells (0.2, 0.33, 0.2), blue cytoplasm.
AZURE = np.array([0.72, 0.58, 0.16])
EOSIN = np.array([0.10, 0.90, 0.20])
HAEMOGLOBIN = np.array([0.03, 0.22, 0.50])  # also eosinophil granules: orange


def transmit(azure: Map, eosin: Map, orange: Map, patient: Patient) -> Map:
    r"""Return the transmitted light by the Beer-Lambert law.

    .. math:: I_c = \exp\Big(-\sum_s a_s\, \varepsilon_{sc} - h_c\Big)

    with the amount :math:`a_s` of stain :math:`s`, its optical density :math:`\varepsilon_{sc}` in channel :math:`c`
    under the patient's staining, and the haze :math:`h_c` of the plasma.

    Args:
        azure: amount of azure, (H, W), in units of the reference stain.
        eosin: amount of eosin, (H, W).
        orange: amount of haemoglobin or eosinophil granules, (H, W).
        patient: strength and tint of the stain, and haze.

    Returns:
        Transmittance, (H, W, 3), in (0, 1].
    """
    tinted = AZURE * (1 + np.array(patient.tint))
    matrix = np.stack([patient.azure * tinted, patient.eosin * EOSIN, HAEMOGLOBIN]).astype(np.float32)
    amounts = np.stack([azure, eosin, orange], axis=-1).reshape(-1, 3)
    density = amounts @ matrix
    density += np.float32(patient.haze) * np.array([0.5, 1.0, 0.8], np.float32)
    return np.exp(-density).reshape(*azure.shape, 3)


def expose(rng: np.random.Generator, light: Map, canvas: Canvas, patient: Patient, size: int) -> NDArray[np.uint8]:
    """Take the camera image of a transmitted light field.

    Args:
        rng: source of focus and sensor noise.
        light: transmittance, (side, side, 3), on ``canvas``.
        canvas: scale of ``light``.
        patient: optics, illumination, camera and JPEG quality.
        size: side of the image, pixels.

    Returns:
        RGB image, (size, size, 3) uint8, after JPEG compression.
    """
    defocus = patient.blur_um * float(np.exp(0.15 * rng.standard_normal()))
    light = cv2.GaussianBlur(light, (0, 0), max(defocus * canvas.scale, 0.3), borderType=cv2.BORDER_REPLICATE)
    if light.shape[0] != size:
        light = cv2.resize(light, (size, size), interpolation=cv2.INTER_AREA)
    if patient.sharpen > 0.05:
        soft = cv2.GaussianBlur(light, (0, 0), max(0.35 * size / canvas.field, 0.5))
        light = light + np.float32(patient.sharpen) * (light - soft)
    unit = np.linspace(-1, 1, size, dtype=np.float32)
    gain = 1 + np.float32(patient.slope[0]) * unit[None, :] + np.float32(patient.slope[1]) * unit[:, None]
    gain = gain - np.float32(patient.vignette) * (unit[None, :] ** 2 + unit[:, None] ** 2) / 2
    light = np.float32(patient.glare) + np.float32(1 - patient.glare) * light
    image = np.clip(light * gain[..., None] * np.array(patient.white, np.float32), 0, 1.2)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image = image + np.float32(patient.noise) * np.sqrt(0.15 + 0.85 * image) * noise
    coded = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    _, stream = cv2.imencode(".jpg", coded[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, patient.jpeg_quality])
    return np.ascontiguousarray(cv2.imdecode(stream, cv2.IMREAD_COLOR)[..., ::-1])
