"""A training loop that knows nothing of the server's database being away meanwhile.

It takes args["steps"] steps, saves after each and asks for its run, and marks
with a file when it has taken args["mark_after"] of them.
"""

import pathlib

from scenario import *

args = arguments()
service = tinker.ServiceClient()
rest = service.create_rest_client()
client = service.create_lora_training_client(BASE_MODEL, rank=4, seed=5).result()
steps, saved = [], []
for i in range(args["steps"]):
    if i == args["mark_after"]:
        pathlib.Path(args["mark"]).touch()
    steps.append(step(client, [text_datum()]))
    saved.append(client.save_state(f"step-{i}").result().path)
    assert rest.get_training_run(client.model_id).result().training_run_id == client.model_id
emit({"steps": steps, "saved": len(saved),
      "listed": len(rest.list_checkpoints(client.model_id).result().checkpoints)})
service.close("success").result()
