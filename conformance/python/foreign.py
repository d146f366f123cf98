"""An adapter that was trained elsewhere: first written as PEFT writes one, then
used once it has been imported."""

import json
import os

from safetensors.numpy import save_file

from scenario import *

args = arguments()
if "dir" in args:
    rng = np.random.default_rng(args["seed"])
    rank, hidden, layers, widths = 4, 128, 4, {"q_proj": 128, "v_proj": 64}
    tensors = {}
    for layer in range(layers):
        for module, width in widths.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{prefix}.lora_A.weight"] = rng.normal(0, 0.1, (rank, hidden)).astype(args["dtype"])
            tensors[f"{prefix}.lora_B.weight"] = rng.normal(0, 0.1, (width, rank)).astype(args["dtype"])
    save_file(tensors, os.path.join(args["dir"], "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": BASE_MODEL, "bias": "none",
        "corda_config": None, "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "layer_replication": None, "layers_pattern": None,
        "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 16, "lora_bias": False, "lora_dropout": 0.05,
        "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA",
        "qalora_group_size": 16, "r": rank, "rank_pattern": {}, "revision": None,
        "target_modules": ["v_proj", "q_proj"], "target_parameters": None, "task_type": "CAUSAL_LM",
        "trainable_token_indices": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
    }
    with open(os.path.join(args["dir"], "adapter_config.json"), "w") as f:
        json.dump(config, f, indent=2)
    emit({"tensors": len(tensors)})
else:
    service = tinker.ServiceClient()
    rest = service.create_rest_client()
    client = service.create_training_client_from_state(args["training"]).result()
    data = [text_datum()]
    before = evaluate(client, data)
    sampler = service.create_sampling_client(model_path=args["sampler"])
    drawn = sampler.sample(
        types.ModelInput.from_ints(list(TEXT[:8])), 1, types.SamplingParams(max_tokens=8, seed=1)
    ).result()
    losses = [step(client, data)["loss"] for _ in range(4)]
    saved = client.save_state("trained-on").result().path
    emit({
        "before": before,
        "losses": losses,
        "drawn": drawn.sequences[0].tokens,
        "info": plain(rest.get_weights_info_by_tinker_path(saved).result()),
        "listed": [c.tinker_path for c in rest.list_user_checkpoints().result().checkpoints],
        "scored": sampler.compute_logprobs(types.ModelInput.from_ints(list(TEXT))).result()[1:],
        "rank": client.get_info().lora_rank,
    })
    service.close("success").result()
