"""One half of a run that the other language does the other half of: saves a
state and goes on from it, or resumes one that was saved elsewhere."""

from scenario import *

args = arguments()
service = tinker.ServiceClient()
data = [text_datum()]
path = args.get("load")
if path is None:
    client = service.create_lora_training_client(BASE_MODEL, rank=6, seed=2, train_mlp=False).result()
    for _ in range(3):
        step(client, data)
    path = client.save_state("for-go").result().path
else:
    client = service.create_training_client_from_state_with_optimizer(path).result()
emit({"path": path, "losses": [step(client, data)["loss"] for _ in range(args["steps"])]})
service.close("success").result()
