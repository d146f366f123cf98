"""Drives a Hugging Face Hub with the published huggingface_hub package."""

import json
import os
import sys

args = json.loads(sys.argv[1])
os.environ.update(args["env"])

import huggingface_hub  # noqa: E402  (it reads its environment when it is loaded)
from huggingface_hub import HfApi, hf_hub_download, snapshot_download  # noqa: E402

api = HfApi()
out = {"version": huggingface_hub.__version__, "user": api.whoami()["name"], "endpoint": api.endpoint}
repo = args["repo"]

if "upload" in args:
    out["url"] = str(api.create_repo(repo, private=True))
    again = str(api.create_repo(repo, private=True, exist_ok=True))
    assert again == out["url"], again
    kw = {"repo_id": repo, "folder_path": args["upload"], "ignore_patterns": args.get("ignore")}
    commit = api.upload_folder(commit_message="from Python", **kw)
    out["commit"] = commit.oid
    out["again"] = api.upload_folder(commit_message="again", **kw).oid
    api.create_branch(repo, branch="other")
    api.create_branch(repo, branch="other", exist_ok=True)
    pull = api.upload_file(
        repo_id=repo, path_or_fileobj=b"proposed", path_in_repo="note.txt", create_pr=True, commit_message="a proposal"
    )
    out["pull"] = pull.pr_url
    out["proposed"] = open(hf_hub_download(repo, "note.txt", revision="refs/pr/1", cache_dir=args["cache"])).read()

revision = args.get("revision")
info = api.model_info(repo, revision=revision)
out["sha"], out["private"] = info.sha, info.private
out["siblings"] = sorted(s.rfilename for s in info.siblings)
dir = snapshot_download(repo, revision=revision, cache_dir=args["cache"])
out["dir"] = os.path.realpath(dir)
out["files"] = sorted(
    os.path.relpath(os.path.join(d, f), dir) for d, _, names in os.walk(dir) for f in names
)
out["errors"] = {}
for name, call in {
    "no repository": lambda: api.model_info(repo + "-not"),
    "no revision": lambda: api.model_info(repo, revision="nowhere"),
    "no file": lambda: hf_hub_download(repo, "nothing", cache_dir=args["cache"]),
}.items():
    try:
        call()
    except Exception as e:
        out["errors"][name] = type(e).__name__

# The card as the package reads it.
if "README.md" in out["files"]:
    from huggingface_hub import ModelCard

    card = ModelCard.load(os.path.join(dir, "README.md"))
    out["card"] = card.data.to_dict()

json.dump(out, sys.stdout)
