"""The one list of policies: its text form, its errors, its help."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_symphony import errors
from vllm_symphony.kernel.effect import SetPolicy
from vllm_symphony.kernel.sched import catalogue
from vllm_symphony.trace import metrics


@st.composite
def choices(draw: st.DrawFn) -> SetPolicy:
    level = draw(st.sampled_from(sorted(catalogue.LEVELS)))
    name = draw(st.sampled_from(sorted(catalogue.LEVELS[level])))
    known = catalogue.LEVELS[level][name].parameters
    given = draw(st.dictionaries(st.sampled_from(sorted(known)), st.floats(0, 1e6), max_size=3)) if known else {}
    return SetPolicy(level, name, tuple((key, max(value, known[key].least)) for key, value in given.items()))


@settings(deadline=None)
@given(choices())
def test_a_policy_is_what_its_text_says(policy: SetPolicy):
    text = catalogue.text(policy.name, dict(policy.parameters))

    assert catalogue.parsed(policy.level, text, simulated=True) == policy


def test_parameters_that_are_not_given_are_as_by_default():
    assert catalogue.values("process", "plas", {"quantum": 64.0}) == {"quantum": 64.0, "patience": 16.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("best", "no process policy is called 'best': there are fcfs, "),
        ("", "no process policy is called ''"),
        ("fcfs:quantum=1", "fcfs has no parameter 'quantum': it has none"),
        ("plas:speed=1", "plas has no parameter 'speed': it has quantum, patience"),
        ("plas:quantum=0", "quantum of plas must be a number of 1 or more, not 0"),
        ("plas:quantum=nan", "quantum of plas must be a number of 1 or more, not nan"),
        ("plas:quantum=much", "a policy is NAME or NAME:PARAMETER=NUMBER,..., not 'plas:quantum=much'"),
        ("plas:quantum=2,quantum=3", "quantum stands twice in 'plas:quantum=2,quantum=3'"),
    ],
)
def test_what_is_no_policy_is_refused_with_what_there_is(text: str, said: str):
    with pytest.raises(errors.InvalidArgument) as refused:
        catalogue.parsed(catalogue.PROCESS, text)

    assert refused.value.message.startswith(said)


def test_each_level_has_a_default_of_its_own_and_says_what_it_decides():
    assert set(catalogue.LEVELS) == set(catalogue.DEFAULTS) == set(catalogue.DECIDES)
    for level, name in catalogue.DEFAULTS.items():
        assert catalogue.demand(level, name, {}).name == name


def test_the_help_names_each_policy_and_each_parameter_of_a_level():
    for level, known in catalogue.LEVELS.items():
        words = "\n".join(catalogue.told(level, simulated=True))

        assert all(name in words and policy.help in words for name, policy in known.items())
        assert all(parameter.help in words for policy in known.values() for parameter in policy.parameters.values())
        assert not any(line.split()[0] in catalogue.SIMULATED for line in catalogue.told(level)), "a server does not have them"


def test_the_metric_of_policies_knows_those_that_a_server_has():
    served = [name for known in catalogue.LEVELS.values() for name in known if name not in catalogue.SIMULATED]

    assert list(metrics.SCHED) == list(catalogue.LEVELS) and set(served) <= set(metrics.POLICY)
