"""The generated tables of the documentation are those of the program."""

from __future__ import annotations

import pytest
from tests.docs.reference import GENERATED, rendered


@pytest.mark.parametrize("document", sorted({name for name, _ in GENERATED}))
def test_tables_are_up_to_date(document: str) -> None:
    text, wanted = rendered(document)
    assert text == wanted, f"docs/{document} is out of date: run `./dev docs`"
