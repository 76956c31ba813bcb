"""Every ISA of every architecture gives the results on record."""

from __future__ import annotations

import pytest

import golden


@pytest.mark.parametrize("group", golden.GROUPS)
def test_results_are_those_on_record(isa: str, group: str) -> None:
    found = golden.compute([group])
    assert found
    assert golden.differences(found) == []


def test_the_record_has_every_case_and_no_other() -> None:
    assert golden.compute().keys() == golden.on_record().keys()
