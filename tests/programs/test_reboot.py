"""After a reboot a program of others goes on with the conversation that it keeps itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.crash.test_reboot import power_off, up
from tests.programs.conftest import finished

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.programs.conftest import Lab


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_it_comes_back_with_its_memory(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab("claude-code")
    lab.start()
    lab.ask("[[say the word is marzipan]]")
    power_off(lab.real)
    told = up(lab.real.home)
    lab.real.pid = told["pid"]
    (one,) = told["restored"]
    assert (one["state"], one["sessions"], one["obstacle"], one["notes"]) == ("stopped", 1, "", [])
    assert "marzipan" in finished(lab.ask("[[recall]]"))["text"]
