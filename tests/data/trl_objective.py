"""How trl_objective.json was made: TRL 1.16's own code, run on random numbers.

    python -m venv trl && trl/bin/pip install trl==1.16.0 torch && trl/bin/python tests/data/trl_objective.py

TRL is no dependency of the tests; the numbers are committed. The advantages are a block inside a long method of TRL, so
that block is cut out of its syntax tree and run as it is.
"""

import ast
import inspect
import itertools
import json
import textwrap
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl.trainer import grpo_trainer
from trl.trainer.grpo_trainer import GRPOTrainer

GROUP, MAX_LENGTH = 4, 9


def advantages(rewards, scale_rewards):
    """TRL's `if self.multi_objective_aggregation == ...` block."""
    source = textwrap.dedent(inspect.getsource(GRPOTrainer._generate_and_score_completions))
    [block] = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.If) and ast.unparse(node.test).startswith("self.multi_objective_aggregation == 'sum")
    ]
    me = SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize",
        scale_rewards=scale_rewards,
        reward_weights=torch.ones(rewards.shape[1]),
    )
    scope = {
        **vars(grpo_trainer),
        "self": me,
        "rewards_per_func": rewards,
        "device": "cpu",
        "num_generations": GROUP,
        "unscorable_mask": rewards.isnan().all(dim=1),
    }
    exec(compile(ast.Module([block], []), "trl", "exec"), scope)
    return scope["advantages"].nan_to_num(nan=0.0)


def loss(case, numbers):
    log_probs = numbers["log_probs"].clone().requires_grad_()
    me = SimpleNamespace(
        **case,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        use_vllm=False,
        max_completion_length=MAX_LENGTH,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (log_probs, torch.zeros_like(log_probs), None),
    )
    mask = numbers["mask"]
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.long),
        "completion_mask": mask,
        "advantages": numbers["advantages"],
        "old_per_token_logps": numbers["old_log_probs"],
        "ref_per_token_logps": numbers["reference_log_probs"],
        "num_items_in_batch": mask.sum(),
    }
    value = GRPOTrainer._compute_loss(me, me.model, inputs)
    [gradient] = torch.autograd.grad(value, log_probs)
    metrics = me._metrics["train"]
    return {
        **case,
        "loss": value.item(),
        "gradient": gradient.tolist(),
        "kl": metrics["kl"][0] if "kl" in metrics else None,
        "clipped": metrics["clip_ratio/region_mean"][0],
    }


def main():
    torch.manual_seed(0)
    rewards = torch.rand(3 * GROUP, 2).round(decimals=1)
    rewards[:GROUP, 1] = torch.nan  # the first group's task has one reward
    rewards[GROUP : 2 * GROUP] = 0.3  # the second group's rewards are all equal
    rewards[2 * GROUP] = torch.nan  # no reward function scores this completion
    scaled = {name: advantages(rewards, name).tolist() for name in ("group", "none")}

    lengths = torch.tensor([9, 1, 4, 7, 2, 0])  # the last one is truncated and masked
    mask = (torch.arange(MAX_LENGTH) < lengths[:, None]).int()
    log_probs = -torch.rand(len(lengths), MAX_LENGTH) * 3
    numbers = {
        "mask": mask,
        "log_probs": log_probs,
        "old_log_probs": log_probs + torch.randn_like(log_probs) * 0.3,
        "reference_log_probs": log_probs + torch.randn_like(log_probs) * 0.5,
        "advantages": torch.randn(len(lengths)),
    }
    cases = [
        {"loss_type": loss_type, "beta": beta, "epsilon_low": low, "epsilon_high": high}
        for loss_type, beta, (low, high) in itertools.product(
            ("grpo", "dr_grpo", "dapo"), (0.0, 0.04), ((0.2, 0.2), (0.1, 0.28))
        )
    ]
    content = {
        "made_with": f"trl {trl.__version__}, torch {torch.__version__}",
        "group": GROUP,
        "max_length": MAX_LENGTH,
        # JSON has no NaN: null stands for "this reward says nothing".
        "rewards": [[None if value != value else value for value in row] for row in rewards.tolist()],
        "group_advantages": scaled,
        **{name: tensor.tolist() for name, tensor in numbers.items()},
        "losses": [loss(case, numbers) for case in cases],
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content) + "\n")


main()
