"""A training loop that knows nothing of the server's being restarted meanwhile.

It takes args["steps"] steps of two batches and marks with a file when it has
taken args["mark_after"] of them.
"""

import pathlib

from scenario import *

args = arguments()
service = tinker.ServiceClient()
client = service.create_lora_training_client(BASE_MODEL, rank=4, seed=5).result()
batches = [[text_datum()], [text_datum(b"another text"), text_datum(b"and one more, somewhat longer")]]
steps = []
for i in range(args["steps"]):
    if i == args["mark_after"]:
        pathlib.Path(args["mark"]).touch()
    # Everything of a step is on its way before anything of it is awaited.
    passes = [client.forward_backward(batch, "cross_entropy") for batch in batches]
    stepped = client.optim_step(adam())
    steps.append({"passes": [{"loss": p.result().metrics["loss:sum"], "logprobs": logprobs(p.result())} for p in passes],
                  "optimizer": stepped.result().metrics})
emit({"model_id": client.model_id, "steps": steps, "end": evaluate(client, batches[1]),
      "saved": client.save_state("end").result().path})
service.close("success").result()
