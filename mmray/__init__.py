"""mmray: multimodal learning from media nobody labelled, on Ray.

Importing this package is cheap: torch and ray are imported when they are needed.
"""

from __future__ import annotations

from typing import Any

from mmray.errors import MediaError, UserError
from mmray.runtime import init

__version__ = "0.1.0"
__all__ = ["MediaError", "UserError", "__version__", "init", "load"]


def load(where: str, device: str = "auto", **options: Any) -> Any:
    """Load a trained model and return the predictor of its kind.

    Args:
        where: a model folder (path or URI), `models:/NAME/VERSION` of the MLflow registry,
            or `official:FILE` for the official SoundNet weights (`sound8.npy`).
        device: `auto` (GPU where there is one), `cpu`, `cuda` or `cuda:N`.
        options: passed to the predictor.

    Returns:
        The predictor: `mmray.soundnet.predict.SoundNet` or `mmray.joint.predict.Tagger`.

    Raises:
        UserError: nothing is there, or it is not a model that mmray wrote.
    """
    from mmray.models import load_predictor

    return load_predictor(where, device=device, **options)
