"""Saving: names, times to live, overwriting, metadata, and what lists and
infos say of it."""

from scenario import *

service = tinker.ServiceClient(user_metadata={"team": "conformance"})
rest = tinker.RestClient()
client = service.create_lora_training_client(
    BASE_MODEL, rank=4, seed=1, train_unembed=False, user_metadata={"experiment": "saving"}
).result()
data = [text_datum()]


def listed() -> dict:
    return {c.checkpoint_id: plain(c) for c in rest.list_checkpoints(client.model_id).result().checkpoints}


step(client, data)
saved = {
    "plain": client.save_state("plain").result().path,
    "ttl": client.save_state("with-ttl", ttl_seconds=7200).result().path,
    "metadata": client.save_state("with.metadata", user_metadata={"epoch": "3", "empty": ""}).result().path,
    "sampler": client.save_weights_for_sampler(
        "plain", ttl_seconds=3600, user_metadata={"for": "sampling"}
    ).result().path,
    "external": client.save_weights_external("exported", ttl_seconds=3600).result().path,
}
before = listed()

# A name is taken once, unless the caller says to overwrite it.
step(client, data)
taken = failure(lambda: client.save_state("plain").result())
at_overwrite = evaluate(client, data)
overwritten = client.save_state("plain", overwrite=True).result().path
after = listed()
resumed = service.create_training_client_from_state(overwritten).result()

urls = rest.get_external_weights_urls(saved["external"]).result()

emit(
    {
        "model_id": client.model_id,
        "saved": saved,
        "before": before,
        "taken": taken,
        "overwritten": overwritten,
        "after": after,
        "at_overwrite": at_overwrite,
        "resumed": evaluate(resumed, data),
        "external_files": sorted(urls.urls),
        "external_expires": urls.expires.isoformat(),
        "now": time.time(),
        "run": plain(rest.get_training_run(client.model_id).result()),
    }
)
service.close("success").result()
