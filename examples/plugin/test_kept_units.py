"""The conformance test of the package: every law of decompositions, by the name of its entry point."""

from tensornet_interp.testing import check_decomposition


def test_kept_units_keeps_the_laws() -> None:
    """One line, and it prints what the class does not declare."""
    print(check_decomposition("kept_units"))
