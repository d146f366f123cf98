"""A time to live of seconds: from one instant to the next the checkpoint is
nowhere to be seen, and its name is free."""

from scenario import *

service = tinker.ServiceClient()
rest = tinker.RestClient()
data = [text_datum()]
client = service.create_lora_training_client(BASE_MODEL, rank=2, seed=1).result()
step(client, data)
stays = client.save_state("stays").result().path
path = client.save_state("expires").result().path
born = client.save_state("born-to-expire", ttl_seconds=2).result().path
sampler_path = client.save_weights_for_sampler("expires").result().path
sampler = service.create_sampling_client(model_path=sampler_path).result()


def names() -> list[str]:
    return sorted(c.checkpoint_id for c in rest.list_user_checkpoints().result().checkpoints)


asked = time.time()
for p in (path, sampler_path):
    rest.set_checkpoint_ttl_from_tinker_path(p, 6).result()
before = {
    "names": names(),
    "expires_at": {
        c.checkpoint_id: c.expires_at.timestamp() if c.expires_at else None
        for c in rest.list_checkpoints(client.model_id).result().checkpoints
    },
    "readable": failure(lambda: rest.get_weights_info_by_tinker_path(path).result()),
}
deadline = time.monotonic() + 60
while len(names()) > 1 and time.monotonic() < deadline:
    time.sleep(0.05)
hidden = time.time()

after = {
    "names": names(),
    "total": rest.list_user_checkpoints(limit=1).result().cursor.total_count,
    "by_run": sorted(c.checkpoint_id for c in rest.list_checkpoints(client.model_id).result().checkpoints),
    "run": plain(rest.get_training_run(client.model_id).result()),
}
failures = {
    "info": failure(lambda: rest.get_weights_info_by_tinker_path(path).result()),
    "born": failure(lambda: rest.get_weights_info_by_tinker_path(born).result()),
    "load": failure(lambda: service.create_training_client_from_state(path).result()),
    "create_sampler": failure(lambda: service.create_sampling_client(model_path=sampler_path).result()),
    "open_sampler": failure(lambda: sampler.compute_logprobs(types.ModelInput.from_ints([1, 2, 3])).result()),
    "publish": failure(lambda: rest.publish_checkpoint_from_tinker_path(path).result()),
    "ttl": failure(lambda: rest.set_checkpoint_ttl_from_tinker_path(path, 3600).result()),
    "delete": failure(lambda: rest.delete_checkpoint_from_tinker_path(path).result()),
}
again = client.save_state("expires").result().path  # the name is free, without overwrite

emit(
    {
        "stays": stays,
        "path": path,
        "asked": asked,
        "hidden": hidden,
        "before": before,
        "after": after,
        "failures": failures,
        "again": again,
        "finally": names(),
    }
)
service.close("success").result()
