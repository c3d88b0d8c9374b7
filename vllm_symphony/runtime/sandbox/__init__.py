"""The sandbox that programs run in: layers that a process puts on itself and can never take off (runtime/sandbox/__init__.py).

    fork server, once    plan = prepare_zygote(image)           namespaces, private root, ruleset and filter made; proved by a child
      for each child     slot = plan.slots.take(plan)           a user and a control group, with the plan's limits
        the child        lock_down(slot.plan(plan), keep=(0, 1, 2, 3))         before a byte of the program is read
                           bounding set, rlimits, own user, no capabilities, no_new_privs, Landlock, files closed, seccomp
        fork server      slot.enter(os_pid); when it is reaped: slot.was_killed_for_memory(), plan.slots.give(slot)
      at the end         plan.slots.close()

What holds whom: seccomp which calls can be made, Landlock and the private root which files can be opened, the own user and the
rlimits what can be taken from others, the cgroup memory and tasks, the namespaces what of the machine can be seen. No layer is
trusted alone: `proof.py` tries for real what they should deny, and `plan.layers.level` (A, B or C) is what came out of it.
`prepare_zygote` never fails for a layer that this machine lacks: the plan says what is missing, and the caller refuses programs if
that is too much. `lock_down` raises OSError if a layer that the plan has cannot be put on: the child must end then.
After `prepare_zygote` the fork server may see no file but those that programs can (and no /proc): import and open before.
"""

from vllm_symphony.runtime.sandbox.lockdown import LayerFailed, lock_down
from vllm_symphony.runtime.sandbox.plan import Layers, Plan
from vllm_symphony.runtime.sandbox.prepare import prepare_zygote
from vllm_symphony.runtime.sandbox.slot import Slot, Slots

__all__ = ["LayerFailed", "Layers", "Plan", "Slot", "Slots", "lock_down", "prepare_zygote"]
