"""The shipped check passes for what is right and names what is wrong."""

from dataclasses import fields

import pytest
from global_state import state
from wrong_plugins import MORE, TEN, KeepUnits, Reporting

from tensornet_interp.decompositions import BUILT_IN
from tensornet_interp.registry import register_decomposition, scratch_registry
from tensornet_interp.testing import check_decomposition

OPTIONS: dict[str, dict[str, object]] = {  # of methods that cannot be built without, and have no ladder
    "tensorly_non_negative_parafac": {"rank": 2},
    "tensorly_parafac": {"rank": 3},
}
FITS = {"block_term", "cp", "symmetric_cp"}
# by the attribute that declares it: who does not
NOT_DECLARED = {
    "nested": {*FITS, *OPTIONS, "tensorly_tucker", "tucker"},
    "fitted": {*OPTIONS, "tensorly_tucker"},
    "odd": {*FITS, *OPTIONS, "tensorly_tucker"},
}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_ins_keep_the_laws(name: str, device: str) -> None:
    report = check_decomposition(name, device=device, **OPTIONS.get(name, {}))
    assert len(report.passed) >= (36 if name in OPTIONS else 44)
    expected = {f"the class does not declare {flag} = True" for flag, names in NOT_DECLARED.items() if name in names}
    if name in OPTIONS:
        expected.add("the ladder is empty: the method has no exact end")
    assert set(report.skipped.values()) == expected


@pytest.mark.parametrize("kind", [KeepUnits, Reporting])
@scratch_registry()
def test_what_the_wrong_plugins_are_made_of_is_right(kind: type) -> None:
    register_decomposition("right")(kind)
    report = check_decomposition("right")
    assert set(report.skipped.values()) == {
        *(f"the class does not declare {flag} = True" for flag in NOT_DECLARED),
        *(["the results have no report"] if kind is KeepUnits else []),
    }
    assert "not tested  f(-layer) = -f(layer): the class does not declare odd = True" in str(report)


@pytest.mark.parametrize("title", [*TEN, *MORE])
@scratch_registry()
def test_a_wrong_plugin_is_caught_and_its_fault_named(title: str) -> None:
    kind, words = (TEN | MORE)[title]
    register_decomposition("wrong")(kind)
    before = state()
    with pytest.raises(AssertionError) as caught:
        check_decomposition("wrong")
    assert words in str(caught.value)
    assert state() == before  # whatever the plugin does


@scratch_registry()
def test_options_are_of_one_more_decomposition() -> None:
    register_decomposition("right")(KeepUnits)
    assert [field.name for field in fields(KeepUnits)] == ["rank"]
    with pytest.raises(TypeError, match="'right' has no option 'ranks'; it has: rank"):
        check_decomposition("right", ranks=2)
    check_decomposition("right", rank=3)
    with pytest.raises(AssertionError, match="selected index k out of range"):
        check_decomposition("right", rank=99)
