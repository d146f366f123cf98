"""The RestClient: every list, info and change, with what it answers."""

from scenario import *

service = tinker.ServiceClient(user_metadata={"team": "conformance"}, project_id="alpha", display_name="the rest")
rest = tinker.RestClient()
session = service.holder.get_session_id()
data = [text_datum()]

client = service.create_lora_training_client(
    BASE_MODEL, rank=5, seed=1, train_mlp=False, user_metadata={"experiment": "rest"}
).result()
started = time.time()
step(client, data)
names = [f"{i:04d}" for i in range(5)]
for name in names:
    client.save_state(name).result()
for name in ("0001", "0003"):
    client.save_weights_for_sampler(name).result()
other = service.create_lora_training_client(BASE_MODEL, rank=2, seed=1).result()
third = service.create_lora_training_client(BASE_MODEL, rank=1, seed=1).result()
sampler = service.create_sampling_client(base_model=BASE_MODEL).result()


def path(kind: str, name: str) -> str:
    return f"tinker://{client.model_id}/{kind}/{name}"


def page(limit: int, offset: int) -> dict:
    response = rest.list_user_checkpoints(limit=limit, offset=offset).result()
    return {"ids": [c.checkpoint_id for c in response.checkpoints], "cursor": plain(response.cursor)}


def runs(**query) -> dict:
    response = rest.list_training_runs(**query).result()
    return {"ids": [r.training_run_id for r in response.training_runs], "cursor": plain(response.cursor)}


def checkpoint(kind: str, name: str) -> dict:
    return {c.checkpoint_id: plain(c) for c in rest.list_checkpoints(client.model_id).result().checkpoints}[
        f"{kind}/{name}"
    ]


pages = [page(3, offset) for offset in (0, 3, 6, 9)]
everything = page(100, 0)
by_run = [plain(c) for c in rest.list_checkpoints(client.model_id).result().checkpoints]
run = plain(rest.get_training_run(client.model_id).result())
by_path = plain(rest.get_training_run_by_tinker_path(path("weights", "0000")).result())
info = plain(rest.get_weights_info_by_tinker_path(path("weights", "0000")).result())
run_pages = {
    "all": runs(),
    "first": runs(limit=2),
    "rest": runs(limit=2, offset=2),
    "alpha": runs(project_id="alpha"),
    "beta": runs(project_id="beta"),
}
sessions = {
    "list": rest.list_sessions().result().sessions,
    "none": rest.list_sessions(limit=20, offset=1).result().sessions,
    "get": plain(rest.get_session(session).result()),
}
rest.assign_session_project(session, "beta").result()
run_pages["moved_alpha"] = runs(project_id="alpha")
run_pages["moved_beta"] = runs(project_id="beta")

# Changes, each looked up where it shows.
rest.publish_checkpoint_from_tinker_path(path("weights", "0002")).result()
published = checkpoint("weights", "0002")
already_public = failure(lambda: rest.publish_checkpoint_from_tinker_path(path("weights", "0002")).result())
rest.unpublish_checkpoint_from_tinker_path(path("weights", "0002")).result()
unpublished = checkpoint("weights", "0002")
not_public = failure(lambda: rest.unpublish_checkpoint_from_tinker_path(path("weights", "0002")).result())

ttl_at = time.time()
rest.set_checkpoint_ttl_from_tinker_path(path("sampler_weights", "0001"), 86400).result()
with_ttl = checkpoint("sampler_weights", "0001")
rest.set_checkpoint_ttl_from_tinker_path(path("sampler_weights", "0001"), None).result()
without_ttl = checkpoint("sampler_weights", "0001")

rest.delete_checkpoint_from_tinker_path(path("weights", "0004")).result()
rest.delete_checkpoint(client.model_id, "sampler_weights/0003").result()
after_delete = page(100, 0)
run_after_delete = plain(rest.get_training_run(client.model_id).result())
deleted_again = failure(lambda: rest.delete_checkpoint_from_tinker_path(path("weights", "0004")).result())

emit(
    {
        "model_id": client.model_id,
        "other_ids": [other.model_id, third.model_id],
        "session": session,
        "started": started,
        "now": time.time(),
        "pages": pages,
        "everything": everything,
        "by_run": by_run,
        "run": run,
        "by_path": by_path,
        "info": info,
        "run_pages": run_pages,
        "sessions": sessions,
        "sampler": plain(rest.get_sampler(sampler._sampling_session_id).result()),
        "whoami": plain(rest.whoami().result()),
        "published": published,
        "already_public": already_public,
        "unpublished": unpublished,
        "not_public": not_public,
        "ttl_at": ttl_at,
        "with_ttl": with_ttl,
        "without_ttl": without_ttl,
        "after_delete": after_delete,
        "run_after_delete": run_after_delete,
        "deleted_again": deleted_again,
    }
)
service.close("success").result()
