"""A run before and after the server was restarted, or was killed.

Called with phase "before", leaves a run with checkpoints, and unsaved steps if
asked to. Called with phase "after" and what "before" printed, looks at all of
it again and goes on from it.
"""

import os
import sys

from scenario import *

args = arguments()
rest = tinker.RestClient()
data = [text_datum(), text_datum(b"another text")]


def state(model_id: str, session_id: str, paths: list[str]) -> dict:
    return {
        "checkpoints": plain(rest.list_user_checkpoints().result()),
        "by_run": plain(rest.list_checkpoints(model_id).result()),
        "run": plain(rest.get_training_run(model_id).result()),
        "runs": plain(rest.list_training_runs().result()),
        "info": {p: plain(rest.get_weights_info_by_tinker_path(p).result()) for p in paths},
        "session": plain(rest.get_session(session_id).result()),
        "sessions": plain(rest.list_sessions().result()),
        "whoami": plain(rest.whoami().result()),
    }


if args["phase"] == "before":
    service = tinker.ServiceClient(user_metadata={"phase": "before"})
    client = service.create_lora_training_client(
        BASE_MODEL, rank=4, seed=3, train_unembed=False, user_metadata={"experiment": "restart"}
    ).result()
    for _ in range(2):
        step(client, data)
    sampler_path = client.save_weights_for_sampler("sampler").result().path
    path = client.save_state("resumable", user_metadata={"epoch": "1"}).result().path
    rest.publish_checkpoint_from_tinker_path(path).result()
    rest.set_checkpoint_ttl_from_tinker_path(sampler_path, 86400).result()
    sampler = service.create_sampling_client(model_path=sampler_path).result()
    ahead = None
    if args["unsaved_steps"]:
        ahead = {"steps": [step(client, data) for _ in range(args["unsaved_steps"])], "end": evaluate(client, data)}
    document = {
        "model_id": client.model_id,
        "session_id": service.holder.get_session_id(),
        "sampler_id": sampler._sampling_session_id,
        "path": path,
        "sampler_path": sampler_path,
        "ahead": ahead,
        "end": evaluate(client, data),
        "sampled": sampler.compute_logprobs(types.ModelInput.from_ints(list(TEXT))).result(),
    }
    document["state"] = state(client.model_id, document["session_id"], [path, sampler_path])
    emit(document)
    # No close: the session is still open when the server goes.
    sys.stdout.flush()
    os._exit(0)

before = args["before"]
document = {"state": state(before["model_id"], before["session_id"], [before["path"], before["sampler_path"]])}
service = tinker.ServiceClient(user_metadata={"phase": "after"})
resumed = service.create_training_client_from_state_with_optimizer(before["path"]).result()
document["resumed_end"] = evaluate(resumed, data)
document["resumed"] = {
    "steps": [step(resumed, data) for _ in range(args["unsaved_steps"])],
    "end": evaluate(resumed, data),
}
document["sampler"] = plain(rest.get_sampler(before["sampler_id"]).result())
sampler = service.create_sampling_client(model_path=before["sampler_path"]).result()
document["sampled"] = sampler.compute_logprobs(types.ModelInput.from_ints(list(TEXT))).result()
document["saved"] = resumed.save_state("after").result().path
emit(document)
service.close("success").result()
