"""Who decides who computes (kernel/syscall/sched.py); how it is chosen and kept: kernel/sched/settings.py.

getsched     the policies are anybody's to see, of principals its own part; scope admin sees all
setsched     scope admin: another policy from here on, after a restart too
setweight    scope admin: a principal's weight and cap
"""

from __future__ import annotations

from vllm_symphony.abi.calls import Done, NoArgs, SchedResult, Setsched, Setweight
from vllm_symphony.abi.types import PrincipalStat
from vllm_symphony.errors import InvalidArgument, NotOwner
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.sched.view import NOTHING, QueueView
from vllm_symphony.kernel.syscall.quota import MAX_PRINCIPAL
from vllm_symphony.kernel.syscall.view import demand_door


def getsched(m: Machine, call: Call, a: NoArgs) -> SchedResult:
    """Policies, parts, and who waits."""
    demand_door(call)
    view, own = m.queue_view(), call.cred.principal
    shown = dict.fromkeys((*view.principals, *m.sched.weights)) if call.cred.is_admin else {own: None}
    return SchedResult(
        m.sched.shown(), tuple(_stat(m, view, name) for name in sorted(shown)), view.running, view.queued, dict(view.errors)
    )


def _stat(m: Machine, view: QueueView, principal: str) -> PrincipalStat:
    part, standing = m.sched.weight(principal), view.principals.get(principal, NOTHING)
    return PrincipalStat(principal, part.weight, part.cap, standing.running, standing.queued, standing.service)


def setsched(m: Machine, call: Call, a: Setsched) -> Done:
    """Another policy, or the one of the start."""
    _demand_admin(call, "chooses policies")
    if a.policy:
        m.sched.choose(a.level, a.policy, a.parameters)
    elif a.parameters:
        raise InvalidArgument("parameters are those of a policy: say which", level=a.level[:64])
    else:
        m.sched.forget(a.level)
    return Done()


def setweight(m: Machine, call: Call, a: Setweight) -> Done:
    """A weight, a cap, or both."""
    _demand_admin(call, "sets weights and caps")
    if not 0 < len(a.principal) <= MAX_PRINCIPAL:
        raise InvalidArgument(f"a principal has 1..{MAX_PRINCIPAL} characters", principal=a.principal[:MAX_PRINCIPAL])
    old = m.sched.weight(a.principal)
    cap = old.cap if a.cap is None else None if a.cap < 0 else a.cap
    m.sched.weigh(a.principal, old.weight if a.weight is None else a.weight, cap)
    return Done()


def _demand_admin(call: Call, does: str) -> None:
    demand_door(call)
    if not call.cred.is_admin:
        raise NotOwner(f"only scope admin {does}, not {call.cred.principal}")
