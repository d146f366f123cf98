"""A batch too large for one request: the SDK sends it in parallel chunks, the
first of them last, and nothing about the result shows it."""

import re
import urllib.request

from scenario import *

service = tinker.ServiceClient()
rest = tinker.RestClient()
rng = np.random.default_rng(7)
data = [token_datum([int(t) for t in rng.integers(0, 256, size=3)]) for _ in range(2500)]


def requests_of(client) -> int:
    """How many numbered requests the server saw of a model."""
    url = rest.export_session_trace(service.holder.get_session_id()).result()
    with urllib.request.urlopen(url, timeout=30) as response:
        trace = response.read()
    mark = re.escape(client.model_id.encode() + b":req:")
    return len({int(n) for n in re.findall(mark + rb"(\d+)", trace)})


runs = {}
for name, batches in {"at_once": [data], "by_hand": [data[:1024], data[1024:2048], data[2048:]]}.items():
    client = service.create_lora_training_client(BASE_MODEL, rank=4, seed=3).result()
    before = requests_of(client)
    outs = [f.result() for f in [client.forward_backward(batch, "cross_entropy") for batch in batches]]
    runs[name] = {
        "requests": requests_of(client) - before,
        "loss": sum(out.metrics["loss:sum"] for out in outs),
        "tokens": sum(out.metrics["num_tokens:sum"] for out in outs),
        "logprobs": [lp for out in outs for lp in logprobs(out)],
    }
    client.optim_step(adam()).result()
    runs[name]["after"] = evaluate(client, data[:20])

emit({"datums": len(data), "runs": runs})
service.close("success").result()
