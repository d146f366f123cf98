"""Two owners on one server: what is private cannot be told from what does not
exist; what is public can be read and loaded, and nothing else."""

from scenario import *

keys = arguments()
mine = tinker.ServiceClient(api_key=keys["mine"])
my_rest = tinker.RestClient(api_key=keys["mine"])
theirs = tinker.ServiceClient(api_key=keys["theirs"])
their_rest = tinker.RestClient(api_key=keys["theirs"])
data = [text_datum()]

client = mine.create_lora_training_client(BASE_MODEL, rank=4, seed=1, train_mlp=False).result()
step(client, data)
private = client.save_state("private").result().path
public = client.save_state("public").result().path
sampler = client.save_weights_for_sampler("public").result().path
for p in (public, sampler):
    my_rest.publish_checkpoint_from_tinker_path(p).result()
end = evaluate(client, data)
absent = private.replace("/private", "/absent")


def attempts(path: str) -> dict:
    """What the other owner may not do with a checkpoint."""
    return {
        "info": failure(lambda: their_rest.get_weights_info_by_tinker_path(path).result()),
        "load": failure(lambda: theirs.create_training_client_from_state(path).result()),
        "load_with_optimizer": failure(
            lambda: theirs.create_training_client_from_state_with_optimizer(path).result()
        ),
        "sample": failure(lambda: theirs.create_sampling_client(model_path=path).result()),
        "publish": failure(lambda: their_rest.publish_checkpoint_from_tinker_path(path).result()),
        "unpublish": failure(lambda: their_rest.unpublish_checkpoint_from_tinker_path(path).result()),
        "ttl": failure(lambda: their_rest.set_checkpoint_ttl_from_tinker_path(path, 3600).result()),
        "delete": failure(lambda: their_rest.delete_checkpoint_from_tinker_path(path).result()),
    }


refused = {"private": attempts(private), "absent": attempts(absent)}
runs = {
    "mine": failure(lambda: their_rest.get_training_run(client.model_id).result()),
    "absent": failure(lambda: their_rest.get_training_run(client.model_id.replace(":train:0", ":train:9")).result()),
    "checkpoints": failure(lambda: their_rest.list_checkpoints(client.model_id).result()),
    "session": failure(lambda: their_rest.get_session(mine.holder.get_session_id()).result()),
}

# The public one can be read and loaded: to go on training, and to sample.
public_attempts = {
    name: failure(call)
    for name, call in {
        "publish": lambda: their_rest.publish_checkpoint_from_tinker_path(public).result(),
        "unpublish": lambda: their_rest.unpublish_checkpoint_from_tinker_path(public).result(),
        "ttl": lambda: their_rest.set_checkpoint_ttl_from_tinker_path(public, 3600).result(),
        "delete": lambda: their_rest.delete_checkpoint_from_tinker_path(public).result(),
    }.items()
}
loaded = theirs.create_training_client_from_state_with_optimizer(public).result()
prompt = types.ModelInput.from_ints(list(TEXT[:12]))
their_sampler = theirs.create_sampling_client(model_path=sampler).result()
my_sampler = mine.create_sampling_client(model_path=sampler).result()

emit(
    {
        "private": private,
        "absent": absent,
        "refused": refused,
        "runs": runs,
        "public_attempts": public_attempts,
        "info": plain(their_rest.get_weights_info_by_tinker_path(public).result()),
        "end": end,
        "loaded": evaluate(loaded, data),
        "next": {"mine": step(client, data), "theirs": step(loaded, data)},
        "sampled": {
            "mine": my_sampler.compute_logprobs(prompt).result(),
            "theirs": their_sampler.compute_logprobs(prompt).result(),
        },
        "their_checkpoints": plain(their_rest.list_user_checkpoints().result()),
        "their_runs": [r.training_run_id for r in their_rest.list_training_runs().result().training_runs],
        "loaded_id": loaded.model_id,
        "my_checkpoints": sorted(c.tinker_path for c in my_rest.list_user_checkpoints().result().checkpoints),
        "whoami": {"mine": plain(my_rest.whoami().result()), "theirs": plain(their_rest.whoami().result())},
    }
)
mine.close("success").result()
theirs.close("success").result()
