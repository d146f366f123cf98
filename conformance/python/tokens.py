"""Asks the published huggingface_hub package for the token in use."""

import configparser
import json
import os
import sys

args = json.loads(sys.argv[1])
for name in list(os.environ):
    if name.startswith(("HF_", "HUGGING", "ACTIONS_", "GITHUB_")):
        del os.environ[name]
os.environ.update(args["env"])

import huggingface_hub  # noqa: E402  (it reads its environment when it is loaded)
from huggingface_hub import constants, get_token  # noqa: E402
from huggingface_hub.utils import WeakFileLock  # noqa: E402
from huggingface_hub.utils._auth import _read_stored_tokens_full, _save_token  # noqa: E402


def parse(text):
    config = configparser.ConfigParser(interpolation=None)
    try:
        config.read_string(text)
        return {name: dict(config.items(name)) for name in config.sections()}
    except configparser.Error:
        return None


def as_file(text):
    """As the package reads it: line ends of any system."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


if args.get("hold"):
    with WeakFileLock(constants.HF_STORED_TOKENS_PATH + ".lock", timeout=30):
        print("held", flush=True)
        sys.stdin.readline()
    sys.exit()

out = {"version": huggingface_hub.__version__, "stored_path": constants.HF_STORED_TOKENS_PATH}
if "parse" in args:
    out["parsed"] = [parse(as_file(text)) for text in args["parse"]]
elif "save" in args:
    for name, fields in args["save"].items():
        _save_token(**fields, token_name=name)
else:
    try:
        out["token"] = get_token()
    except Exception as e:
        out["error"] = type(e).__name__
out["stored"] = _read_stored_tokens_full()
json.dump(out, sys.stdout)
