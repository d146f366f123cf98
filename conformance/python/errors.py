"""Mistakes a user makes, and how soon and how clearly they learn of them. The
client that made one can go on."""

from scenario import *

service = tinker.ServiceClient()
rest = tinker.RestClient()
data = [text_datum()]
client = service.create_lora_training_client(BASE_MODEL, rank=4, seed=1).result()
step(client, data)
saved = client.save_state("taken").result().path
sampler_path = client.save_weights_for_sampler("taken").result().path
rest.publish_checkpoint_from_tinker_path(saved).result()
before = evaluate(client, data)

tokens = list(TEXT[:8])


def datum(model_input=None, **inputs) -> types.Datum:
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1] if model_input is None else model_input),
        loss_fn_inputs={
            "target_tokens": types.TensorData(data=tokens[1:], dtype="int64"),
            "weights": types.TensorData(data=[1.0] * 7, dtype="float32"),
            **inputs,
        },
    )


def pass_over(*data, loss="cross_entropy"):
    return lambda: client.forward_backward(list(data), loss).result()


def floats(*values):
    return types.TensorData(data=list(values), dtype="float32")


def ints(*values):
    return types.TensorData(data=list(values), dtype="int64")


sampling = service.create_sampling_client(model_path=sampler_path).result()


def sample(prompt=None, **params):
    return lambda: sampling.sample(
        types.ModelInput.from_ints(tokens if prompt is None else prompt),
        num_samples=1,
        sampling_params=types.SamplingParams(**{"max_tokens": 4, **params}),
    ).result()


def create(**config):
    return lambda: service.create_lora_training_client(**{"base_model": BASE_MODEL, **config}).result()


def resume(path, **config):
    return lambda: service.create_training_client_from_state(path, **config).result()


absent_run = saved.replace(":train:0/", ":train:77/")
failures = {
    name: failure(call)
    for name, call in {
        "duplicate_name": lambda: client.save_state("taken").result(),
        "duplicate_sampler_name": lambda: client.save_weights_for_sampler("taken").result(),
        "bad_name": lambda: client.save_state("no spaces").result(),
        "name_with_slash": lambda: client.save_state("a/b").result(),
        "long_name": lambda: client.save_state("x" * 129).result(),
        "ttl_zero": lambda: client.save_state("ttl", ttl_seconds=0).result(),
        "already_public": lambda: rest.publish_checkpoint_from_tinker_path(saved).result(),
        "not_public": lambda: rest.unpublish_checkpoint_from_tinker_path(sampler_path).result(),
        "publish_absent": lambda: rest.publish_checkpoint_from_tinker_path(absent_run).result(),
        "delete_absent": lambda: rest.delete_checkpoint_from_tinker_path(absent_run).result(),
        "info_absent": lambda: rest.get_weights_info_by_tinker_path(absent_run).result(),
        "info_malformed": lambda: rest.get_weights_info_by_tinker_path("not-a-path").result(),
        "run_absent": lambda: rest.get_training_run("absent").result(),
        "checkpoints_of_absent": lambda: rest.list_checkpoints("absent").result(),
        "session_absent": lambda: rest.get_session("absent").result(),
        "sampler_absent": lambda: rest.get_sampler("absent").result(),
        "resume_absent": resume(absent_run),
        "resume_sampler": resume(sampler_path),
        "resume_malformed": resume("tinker://only-a-run"),
        "resume_other_base": resume(saved, base_model="tinkex/other"),
        "sample_absent": lambda: service.create_sampling_client(model_path=absent_run).result(),
        "sample_unknown_base": lambda: service.create_sampling_client(base_model="tinkex/other").result(),
        "rank_zero": create(rank=0),
        "rank_absurd": create(rank=1_000_000),
        "unknown_base": create(base_model="tinkex/other"),
        "token_out_of_vocabulary": pass_over(datum(model_input=[1, 2, 3, 4, 5, 6, 999_999])),
        "negative_token": pass_over(datum(model_input=[-1, 2, 3, 4, 5, 6, 7])),
        "target_out_of_vocabulary": pass_over(datum(target_tokens=ints(1, 2, 3, 4, 5, 6, 260))),
        "empty_datum": pass_over(datum(model_input=[], target_tokens=ints(), weights=floats())),
        "mismatched_targets": pass_over(datum(target_tokens=ints(1, 2, 3))),
        "mismatched_weights": pass_over(datum(weights=floats(1.0, 1.0))),
        "nan_weights": pass_over(datum(weights=floats(*[1.0] * 6, float("nan")))),
        "infinite_weights": pass_over(datum(weights=floats(*[1.0] * 6, float("inf")))),
        "missing_weights": lambda: client.forward_backward(
            [types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs={"target_tokens": ints(*tokens[1:])})],
            "cross_entropy",
        ).result(),
        "missing_advantages": pass_over(datum(logprobs=floats(*[-1.0] * 7)), loss="importance_sampling"),
        "good_then_bad": pass_over(data[0], datum(model_input=[1, 2, 3, 4, 5, 6, 260])),
        "too_long": pass_over(token_datum([1] * 2050)),
        "empty_batch": lambda: client.forward_backward([], "cross_entropy").result(),
        "negative_learning_rate": lambda: client.optim_step(adam(-1.0)).result(),
        "sample_out_of_vocabulary": sample(prompt=[1, 260]),
        "sample_empty_prompt": sample(prompt=[]),
        "sample_too_long": sample(max_tokens=5000),
        "sample_temperature": sample(temperature=-1.0),
        "sample_top_p": sample(top_p=0.0),
        "ttl_absent": lambda: rest.set_checkpoint_ttl_from_tinker_path(absent_run, 3600).result(),
    }.items()
}

loaded = None
if hasattr(client, "load_state"):  # deprecated, still used
    wrong = {
        "load_later": (client, saved),
        "load_other_rank": (create(rank=5)(), saved),
        "load_other_modules": (create(rank=4, train_unembed=False)(), saved),
        "load_sampler": (create(rank=4)(), sampler_path),
        "load_absent": (create(rank=4)(), absent_run),
    }
    for name, (c, path) in wrong.items():
        failures[name] = failure(lambda: c.load_state(path).result())

emit(
    {
        "failures": failures,
        "before": before,
        # Nothing a mistake asked for has happened.
        "after": evaluate(client, data),
        "checkpoints": sorted(c.tinker_path for c in rest.list_user_checkpoints().result().checkpoints),
        "expected_checkpoints": sorted([saved, sampler_path]),
        "saved_afterwards": client.save_state("afterwards").result().path,
    }
)
service.close("success").result()
