"""What the scenario scripts share.

Each script is a user's program. It is given one JSON document as its argument,
drives the published SDK against the server that TINKER_BASE_URL names, and
prints one JSON document. It judges nothing: the Go test that started it
compares the values, so that a failure shows both.

Floats survive the trip bit for bit: Python and Go both print and read the
shortest decimal that identifies a number.
"""

import json
import sys
import time

import numpy as np

import tinker
from tinker import types

BASE_MODEL = "tinkex/tiny"
TEXT = b"tinker trains, tinkex keeps. " * 2


def arguments() -> dict:
    return json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}


def emit(document: dict) -> None:
    # A NaN here is a mistake of the script or of the server, never a value.
    json.dump(document, sys.stdout, allow_nan=False)
    print()


def text_datum(text: bytes = TEXT, weights: list[float] | None = None) -> types.Datum:
    """A text to be learned by heart, one token a byte."""
    return token_datum(list(text), weights)


def token_datum(tokens: list[int], weights: list[float] | None = None) -> types.Datum:
    n = len(tokens) - 1
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": np.array(tokens[1:], dtype=np.int64),
            "weights": np.array([1.0] * n if weights is None else weights, dtype=np.float32),
        },
    )


def adam(learning_rate: float = 5e-3, **params) -> types.AdamParams:
    return types.AdamParams(learning_rate=learning_rate, **params)


def step(client, data, learning_rate: float = 5e-3) -> dict:
    """One training step, its two requests on their way before either is awaited."""
    passed = client.forward_backward(data, "cross_entropy")
    stepped = client.optim_step(adam(learning_rate))
    out = passed.result()
    return {"loss": out.metrics["loss:sum"], "logprobs": logprobs(out), "optimizer": stepped.result().metrics}


def evaluate(client, data) -> dict:
    out = client.forward(data, "cross_entropy").result()
    return {"loss": out.metrics["loss:sum"], "logprobs": logprobs(out)}


def logprobs(output) -> list[list[float]]:
    return [datum["logprobs"].data for datum in output.loss_fn_outputs]


def plain(model) -> dict:
    """A response object as JSON carries it."""
    return model.model_dump(mode="json")


def failure(call) -> dict:
    """How a call fails, and how long the user waits to be told.

    A type of None is a call that did not fail.
    """
    began = time.monotonic()
    try:
        call()
    except Exception as e:
        return {
            "type": type(e).__name__,
            "status": getattr(e, "status_code", 0),
            "category": getattr(getattr(e, "category", None), "name", ""),
            "message": str(e),
            "seconds": time.monotonic() - began,
        }
    return {"type": None, "status": 0, "category": "", "message": "", "seconds": time.monotonic() - began}


__all__ = [
    "BASE_MODEL",
    "TEXT",
    "adam",
    "arguments",
    "emit",
    "evaluate",
    "failure",
    "logprobs",
    "np",
    "plain",
    "step",
    "text_datum",
    "time",
    "tinker",
    "token_datum",
    "types",
]
