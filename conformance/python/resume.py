"""Resuming: from a state with its optimizer the run goes on as if it had never
stopped, bit for bit; without the optimizer it does not."""

from scenario import *

STEPS = 3

service = tinker.ServiceClient()
rest = tinker.RestClient()
data = [text_datum(), text_datum(b"another text, of another length")]


def run_on(client) -> dict:
    steps = [step(client, data) for _ in range(STEPS)]
    return {"steps": steps, "end": evaluate(client, data)}


original = service.create_lora_training_client(
    BASE_MODEL, rank=6, seed=5, train_mlp=True, train_attn=True, train_unembed=False
).result()
for _ in range(STEPS):
    step(original, data)
path = original.save_state("half-way").result().path

runs = {"uninterrupted": run_on(original)}
with_optimizer = service.create_training_client_from_state_with_optimizer(path).result()
runs["with_optimizer"] = run_on(with_optimizer)
without_optimizer = service.create_training_client_from_state(path).result()
runs["without_optimizer"] = run_on(without_optimizer)
if hasattr(original, "load_state_with_optimizer"):  # deprecated, still used
    loaded = service.create_lora_training_client(BASE_MODEL, rank=6, seed=99, train_unembed=False).result()
    loaded.load_state_with_optimizer(path).result()
    runs["load_state_with_optimizer"] = run_on(loaded)
    loaded = service.create_lora_training_client(BASE_MODEL, rank=6, seed=99, train_unembed=False).result()
    loaded.load_state(path).result()
    runs["load_state"] = run_on(loaded)

# Gradients that no step has used yet are part of the state.
pending = service.create_lora_training_client(BASE_MODEL, rank=2, seed=5).result()
pending.forward_backward(data, "cross_entropy").result()
at = pending.save_state("pending").result().path
gradients = {}
for name, client in {
    "kept": pending,
    "resumed": service.create_training_client_from_state_with_optimizer(at).result(),
}.items():
    client.optim_step(adam()).result()
    gradients[name] = evaluate(client, data)

# What a resumed client is, it knows from the checkpoint: rank and all flags.
flags = {}
for name, train in {
    "attn": {"train_mlp": False, "train_attn": True, "train_unembed": False},
    "mlp": {"train_mlp": True, "train_attn": False, "train_unembed": False},
    "unembed": {"train_mlp": False, "train_attn": False, "train_unembed": True},
    "all": {"train_mlp": True, "train_attn": True, "train_unembed": True},
}.items():
    c = service.create_lora_training_client(BASE_MODEL, rank=3, seed=1, **train).result()
    step(c, data)
    resumed = service.create_training_client_from_state(c.save_state("flags").result().path).result()
    # Trained on with something accumulated, so that a forgotten flag would show.
    step(resumed, data)
    again = resumed.save_state("flags-again").result().path
    flags[name] = {
        "asked": train,
        "info": plain(rest.get_weights_info_by_tinker_path(again).result()),
        "rank": resumed.get_info().lora_rank,
        "size": {c.tinker_path: c.size_bytes for c in rest.list_checkpoints(resumed.model_id).result().checkpoints}[again],
        "first_size": rest.list_checkpoints(c.model_id).result().checkpoints[0].size_bytes,
    }

emit({"path": path, "runs": runs, "gradients": gradients, "flags": flags, "info": plain(with_optimizer.get_info())})
service.close("success").result()
