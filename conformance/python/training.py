"""A first training run: what the server offers, how it describes a model, what
each loss computes, and that training learns."""

from scenario import *

service = tinker.ServiceClient()
capabilities = tinker.RestClient().get_server_capabilities().result()


def create(seed: int):
    return service.create_lora_training_client(
        BASE_MODEL, rank=8, seed=seed, train_mlp=True, train_attn=True, train_unembed=False
    ).result()


client = create(1)
data = [text_datum(), text_datum(b"a shorter text", [0.0] * 6 + [0.5] * 7)]

# Forward passes leave no trace: not in a later forward pass, not in a step.
first = evaluate(client, data)
again = evaluate(client, data)
stepped = {"after_forward": step(client, data)}
for name, seed in {"after_nothing": 1, "other_seed": 2}.items():
    c = create(seed)
    stepped[name] = step(c, data)
    stepped[name]["next"] = evaluate(c, data)
stepped["after_forward"]["next"] = evaluate(client, data)

# Gradients accumulate over forward_backward calls until a step uses them.
accumulated = {}
for name, batches in {"together": [data], "apart": [[data[0]], [data[1]]]}.items():
    c = create(1)
    for batch in batches:
        c.forward_backward(batch, "cross_entropy")
    c.optim_step(adam())
    accumulated[name] = evaluate(c, data)

# The policy losses, from log probabilities a little off the model's own.
tokens = list(TEXT[:9])
current = evaluate(client, [token_datum(tokens)])["logprobs"][0]
old = [float(np.float32(lp + d)) for lp, d in zip(current, [0.0, 0.5, -0.5, 1.0, -1.0, 0.1, -0.1, 0.3])]
advantages = [1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, 0.0]
policy = types.Datum(
    model_input=types.ModelInput.from_ints(tokens[:-1]),
    loss_fn_inputs={
        "target_tokens": np.array(tokens[1:], dtype=np.int64),
        "logprobs": np.array(old, dtype=np.float32),
        "advantages": np.array(advantages, dtype=np.float32),
    },
)
losses = {}
for name, config in {
    "importance_sampling": None,
    "ppo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1},
    "cispo": {"clip_low_threshold": 0.5, "clip_high_threshold": 1.5},
}.items():
    out = client.forward([policy], name, config).result()
    losses[name] = {"loss": out.metrics["loss:sum"], "logprobs": logprobs(out)[0]}

learning = [step(client, data) for _ in range(8)]

# A step at learning rate 0 moves nothing.
before = evaluate(client, data)
client.forward_backward(data, "cross_entropy")
client.optim_step(adam(0.0))
standing_still = evaluate(client, data)

emit(
    {
        "capabilities": plain(capabilities),
        "info": plain(client.get_info()),
        "model_id": client.model_id,
        "session_id": service.holder.get_session_id(),
        "weights": [d.loss_fn_inputs["weights"].data for d in data],
        "first": first,
        "again": again,
        "stepped": stepped,
        "accumulated": accumulated,
        "policy": {"old": old, "advantages": advantages, "current": current, "losses": losses},
        "learning": learning,
        "before": before,
        "standing_still": standing_still,
    }
)
service.close("success").result()
