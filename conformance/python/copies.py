"""Copies of checkpoints and the search for sessions, as the RestClient and the
ServiceClient make them."""

from scenario import *

keys = arguments()
mine = tinker.ServiceClient(
    api_key=keys["mine"], project_id="work", display_name="Nightly of mine", user_metadata={"team": "conformance"}
)
my_rest = tinker.RestClient(api_key=keys["mine"])
theirs = tinker.ServiceClient(api_key=keys["theirs"], project_id="archive")
their_rest = tinker.RestClient(api_key=keys["theirs"])
data = [text_datum()]

client = mine.create_lora_training_client(BASE_MODEL, rank=4, seed=1, train_mlp=False).result()
step(client, data)
path = client.save_state("state", ttl_seconds=3600).result().path
sampler = client.save_weights_for_sampler("state").result().path
end = [step(client, data) for _ in range(2)]


def listed(rest, of: str) -> dict:
    run = of.split("/")[2]
    return [plain(c) for c in rest.list_checkpoints(run).result().checkpoints]


refused = {
    "private": failure(lambda: their_rest.copy_weights(path, "archive").result()),
    "absent": failure(lambda: their_rest.copy_weights(path + "x", "archive").result()),
    "nonsense": failure(lambda: their_rest.copy_weights("tinker://x", "archive").result()),
    "ttl": failure(lambda: my_rest.copy_weights(path, "archive", ttl_seconds=-1).result()),
}
for p in (path, sampler):
    my_rest.publish_checkpoint_from_tinker_path(p).result()
began = time.time()
copy = their_rest.copy_weights(path, "archive", ttl_seconds=7200).result()
through_service = theirs.copy_weights(sampler).result()
copies = {"state": listed(their_rest, copy), "sampler": listed(their_rest, through_service)}
original = listed(my_rest, path)
info = plain(their_rest.get_weights_info_by_tinker_path(copy).result())
run = plain(their_rest.get_training_run_by_tinker_path(copy).result())
project = [r.training_run_id for r in their_rest.list_training_runs(project_id="archive").result().training_runs]

# The copy outlives its source, and training goes on from it exactly.
my_rest.delete_checkpoint_from_tinker_path(path).result()
resumed = theirs.create_training_client_from_state_with_optimizer(copy).result()
went_on = [step(resumed, data) for _ in range(2)]

# Sessions.
session = mine.holder.get_session_id()
others = [
    tinker.ServiceClient(api_key=keys["mine"], display_name=f"short {i}", project_id="play") for i in range(3)
]
other_ids = [s.holder.get_session_id() for s in others]
others[0].close("success").result()
others[1].close("errored", "out of memory").result()


def search(**query) -> dict:
    return plain(my_rest.search_sessions(types.SessionSearchRequest(**query)).result())


def ids(**query) -> list[str]:
    return [s["session_id"] for s in search(**query)["sessions"]]


pages = []
request = types.SessionSearchRequest(limit=3)
while True:
    page = my_rest.search_sessions(request).result()
    pages.append([s.session_id for s in page.sessions])
    if page.next_cursor is None:
        break
    request = request.model_copy(update={"cursor": page.next_cursor})

found = {
    "pages": pages,
    "all": ids(),
    "by_id": search(session_id=session)["sessions"],
    "by_name": ids(display_name="MINE nightly"),
    "either": ids(display_name="short 2", session_id=session),
    "project": ids(project_ids=["play"]),
    "metadata": ids(user_metadata={"team": "conformance"}),
    "no_metadata": ids(user_metadata={"team": "other"}),
    "active": ids(statuses=[types.ActiveSessionStatusQuery()], project_ids=["play"]),
    "errored": search(statuses=[types.ClientFinishedSessionStatusQuery(reasons=["errored"])])["sessions"],
    "finished": ids(statuses=[types.ClientFinishedSessionStatusQuery()], project_ids=["play"]),
    "cancelled": ids(statuses=[types.CancelledSessionStatusQuery(), types.FailedSessionStatusQuery()]),
    "accessible": ids(owner=types.AccessibleSearchOwner(), project_ids=["play"]),
    "of_another": ids(owner=types.UserSearchOwner(owner_urns=["tml:user:nobody"])),
    "of_oneself": ids(
        owner=types.UserSearchOwner(owner_urns=[my_rest.whoami().result().user_urn]), project_ids=["play"]
    ),
}

emit(
    {
        "path": path,
        "copy": copy,
        "through_service": through_service,
        "refused": refused,
        "began": began,
        "copies": copies,
        "original": original,
        "info": info,
        "run": run,
        "project": project,
        "end": end,
        "went_on": went_on,
        "session": session,
        "other_ids": other_ids,
        "found": found,
    }
)
for s in (mine, theirs, others[2]):
    s.close("success").result()
