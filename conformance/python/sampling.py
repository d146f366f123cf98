"""Sampling: what the parameters do, and every kind of log probability asked for
at once and one by one."""

from scenario import *

args = arguments()
service = tinker.ServiceClient()
rest = tinker.RestClient()
client = service.create_lora_training_client(BASE_MODEL, rank=8, seed=1).result()
data = [text_datum()]
for _ in range(6):
    step(client, data, 1e-2)
path = client.save_weights_for_sampler("weights").result().path
sampler = service.create_sampling_client(model_path=path).result()
base = service.create_sampling_client(base_model=BASE_MODEL).result()

prompt_tokens = list(b"tinker trains, ")
prompt = types.ModelInput.from_ints(prompt_tokens)


def sample(n=1, client=sampler, prompt=prompt, ask=None, **params):
    return client.sample(
        prompt, num_samples=n, sampling_params=types.SamplingParams(**params), **(ask or {})
    ).result()


def sequences(response) -> list[dict]:
    return [
        {"tokens": s.tokens, "logprobs": s.logprobs, "stop_reason": s.stop_reason, "id": s.sequence_id}
        for s in response.sequences
    ]


seeded = {
    name: sequences(sample(n=4, max_tokens=16, temperature=1.0, seed=seed))
    for name, seed in {"seven": 7, "seven_again": 7, "eight": 8}.items()
}

greedy = sample(max_tokens=24, temperature=0.0, stop=[], ask={"topk_sample_logprobs": 3})
greedy_tokens = greedy.sequences[0].tokens
rescored = sampler.compute_logprobs(types.ModelInput.from_ints(prompt_tokens + greedy_tokens)).result()

top_k_one = sample(max_tokens=24, temperature=1.0, top_k=1, stop=[])
top_p_tiny = sample(max_tokens=24, temperature=1.0, top_p=1e-6, stop=[])

stop_token = greedy_tokens[5]
stop_string = bytes(greedy_tokens[3:6]).decode()
stopped = {
    "by_token": sequences(sample(max_tokens=24, temperature=0.0, stop=[stop_token])),
    "by_string": sequences(sample(max_tokens=24, temperature=0.0, stop=stop_string)),
    "by_strings": sequences(sample(max_tokens=24, temperature=0.0, stop=["\x00never", stop_string])),
    "by_length": sequences(sample(max_tokens=5, temperature=0.0, stop=[])),
}

# Everything that can be asked about a prompt, in one request.
targets = np.array([[t, -1, 32] for t in prompt_tokens[1:]], dtype=np.int64)
asked = sample(
    max_tokens=1,
    temperature=1.0,
    seed=1,
    ask={
        "include_prompt_logprobs": True,
        "topk_prompt_logprobs": 3,
        "target_prompt_logprobs": types.TensorData.from_numpy(targets),
        "prompt_alt_tokens_k": 2,
    },
)
alternatives = np.array(asked.prompt_alt_tokens.tokens.data, dtype=np.int64).reshape(
    asked.prompt_alt_tokens.tokens.shape
)
alternatives_scored = sample(
    max_tokens=1, ask={"target_prompt_logprobs": types.TensorData.from_numpy(alternatives)}
).target_prompt_logprobs
last = sample(
    max_tokens=1,
    ask={"include_prompt_logprobs": True, "prompt_logprobs_last_n": 4, "topk_prompt_logprobs": 2},
)
trained = evaluate(client, [token_datum(prompt_tokens)])

# A snapshot's sampler stays with its weights while training goes on.
snapshot = client.save_weights_and_get_sampling_client().result()
snapshot_before = snapshot.compute_logprobs(prompt).result()
step(client, data, 1e-1)
snapshot_after = snapshot.compute_logprobs(prompt).result()
moved = client.save_weights_and_get_sampling_client().result().compute_logprobs(prompt).result()

# A handle opens the same sampler in another process, which picks its own
# request numbers.
clone = tinker.SamplingClient.from_sampler_handle(sampler.get_sampler_handle(), api_key=args["key"])

# Many requests at once are answered each with its own result.
crowd = [
    sampler.sample(
        prompt, num_samples=1, sampling_params=types.SamplingParams(max_tokens=8, temperature=1.0, seed=i % 3)
    )
    for i in range(30)
]

emit(
    {
        "path": path,
        "prompt": prompt_tokens,
        "base_model": sampler.get_base_model(),
        "seeded": seeded,
        "greedy": {
            "sequence": sequences(greedy)[0],
            "topk": greedy.sequences[0].topk_logprobs,
            "rescored": rescored,
            "top_k_one": top_k_one.sequences[0].tokens,
            "top_p_tiny": top_p_tiny.sequences[0].tokens,
        },
        "stop_token": stop_token,
        "stop_string": stop_string,
        "stopped": stopped,
        "prompt_asked": {
            "logprobs": asked.prompt_logprobs,
            "topk": asked.topk_prompt_logprobs,
            "targets": asked.target_prompt_logprobs.tolist(),
            "alternatives": alternatives.tolist(),
            "alternative_logprobs": asked.prompt_alt_tokens.logprobs.tolist(),
            "alternatives_scored": alternatives_scored.tolist(),
        },
        "last": {"logprobs": last.prompt_logprobs, "topk": last.topk_prompt_logprobs},
        "computed": sampler.compute_logprobs(prompt).result(),
        "computed_by_base": base.compute_logprobs(prompt).result(),
        "trained": trained,
        "snapshot": {"before": snapshot_before, "after": snapshot_after, "moved": moved},
        "clone": sequences(sample(n=4, client=clone, max_tokens=16, temperature=1.0, seed=7)),
        "crowd": [f.result().sequences[0].tokens for f in crowd],
        "sampler_info": {
            "weights": plain(rest.get_sampler(sampler._sampling_session_id).result()),
            "base": plain(rest.get_sampler(base._sampling_session_id).result()),
            "snapshot": plain(rest.get_sampler(snapshot._sampling_session_id).result()),
        },
        "checkpoints": [c.checkpoint_id for c in rest.list_user_checkpoints().result().checkpoints],
    }
)
service.close("success").result()
