"""Takes training steps with the published SDK, as many as each line of its
input says, and answers each line with how many nanoseconds each step took."""

import json
import sys
import time

import numpy as np

import tinker
from tinker import types

base_model, rank, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
service = tinker.ServiceClient()
client = service.create_lora_training_client(base_model, rank=rank).result()
data = [
    types.Datum(
        model_input=types.ModelInput.from_ints(list(range(tokens))),
        loss_fn_inputs={
            "target_tokens": np.arange(1, tokens + 1, dtype=np.int64),
            "weights": np.ones(tokens, dtype=np.float32),
        },
    )
]
adam = types.AdamParams(learning_rate=1e-4)


def step() -> int:
    began = time.perf_counter_ns()
    passed = client.forward_backward(data, "cross_entropy")
    stepped = client.optim_step(adam)
    passed.result()
    stepped.result()
    return time.perf_counter_ns() - began


for line in sys.stdin:
    print(json.dumps([step() for _ in range(int(line))]), flush=True)
service.close("success").result()
