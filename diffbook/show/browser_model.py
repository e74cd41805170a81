"""A trained model small enough to stand in a page: its weights in 8 bits, as text.

:func:`pack` makes what ``js/transformer.js`` reads; :func:`unpack` makes a
:class:`~diffbook.model.LanguageModel` of the same numbers again, so that torch can run exactly
what the page runs. Chapter 11.
"""

from __future__ import annotations

import base64
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from diffbook.model import LanguageModel, ModelConfig

LEVELS = 127  # int8, symmetric: -127 … 127


def pack(model: LanguageModel) -> dict[str, Any]:
    """``model`` as a dictionary for JSON: ``config``, ``tensors`` (name, shape) and ``data``.

    ``data`` is base64 of all tensors one behind the other, little-endian. A matrix (out, in) is
    int8, row by row, then one float16 scale for each row: weight = int8 · scale, with scale =
    max abs(row) / 127. That is exact in float32 (7 bits times 11), so that every reader gets the
    same weights. Vectors (the gains of the norms, the four λ vectors) stay float32: they are few,
    and an error there would touch every token.

    Raises:
        ValueError: for a matrix with a number that float16 scales cannot hold.
    """
    config = asdict(model.config)
    tensors: list[list[Any]] = []
    parts: list[bytes] = []
    for name, tensor in model.state_dict().items():
        if name == "head.weight" and model.config.tie_embeddings:
            continue  # it is the embedding
        values = tensor.detach().float().cpu().numpy()
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds a number that is not finite: train the model again")
        tensors.append([name, list(values.shape)])
        if values.ndim == 1:
            parts.append(values.astype("<f4").tobytes())
            continue
        top = np.abs(values).max(axis=1)  # (out,)
        with np.errstate(over="ignore"):  # said below, with the remedy
            scale = (top / LEVELS).astype("<f2")
        if np.isinf(scale).any() or (scale == 0)[top > 0].any():
            raise ValueError(
                f"{name} has rows with largest magnitudes from {top.min():g} to {top.max():g}: "
                "float16 scales reach from about 1e-5 to 8e6; keep such a model in float32"
            )
        divisor = np.where(scale > 0, scale, 1).astype(np.float32)[:, None]
        levels = np.rint(values / divisor).clip(-LEVELS, LEVELS).astype(np.int8)
        parts += [levels.tobytes(), scale.tobytes()]
    data = base64.b64encode(b"".join(parts)).decode("ascii")
    return {"config": config, "tensors": tensors, "data": data}


def unpack(packed: dict[str, Any]) -> LanguageModel:
    """The model of ``packed``, in float32 and evaluation mode: what the page computes with.

    Raises:
        ValueError: when the data do not fit the tensors, or those not the config.
    """
    data = base64.b64decode(packed["data"])
    state: dict[str, torch.Tensor] = {}
    at = 0
    for name, shape in packed["tensors"]:
        count = math.prod(shape)
        size = 4 * count if len(shape) == 1 else count + 2 * shape[0]
        piece = data[at : at + size]
        if len(piece) < size:
            raise ValueError(f"the data end inside {name}: they are cut off; pack the model again")
        at += size
        if len(shape) == 1:
            values = np.frombuffer(piece, "<f4")
        else:
            levels = np.frombuffer(piece, np.int8, count).reshape(shape).astype(np.float32)
            values = levels * np.frombuffer(piece, "<f2", offset=count).astype(np.float32)[:, None]
        state[name] = torch.from_numpy(values.copy())
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes are left over behind the last tensor")
    model = LanguageModel(ModelConfig(**packed["config"]))
    if model.config.tie_embeddings:
        state["head.weight"] = state["embedding.weight"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the tensors are not those of the config: {error}") from error
    return model.eval()
