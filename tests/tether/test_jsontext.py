"""JSON by the accelerator says and reads the same as the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aegis.tether
from aegis.tether.jsontext import dumps, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)
BAD = [b"", b" ", b"NaN", b"-Infinity", b"[[", b"{} {}", b"[" * 100_000, b"\xff", b'"\x01"', b"nul", b"{1:2}", b'{"a":}', b'"abc']
BAD.append(b"1" * 9999)


@given(VALUES)
def test_the_same_as_the_package(value: object) -> None:
    assert dumps(value) == json.dumps(value, separators=(",", ":")).encode()
    assert loads(json.dumps(value, indent=1).encode()) == value


@pytest.mark.parametrize("text", BAD, ids=lambda text: repr(text[:12]))
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text)


def test_what_json_cannot_say_is_refused() -> None:
    for value in ({1, 2}, float("nan"), b"x"):
        with pytest.raises((TypeError, ValueError)):
            dumps(value)


def test_bare_interpreter_without_the_package() -> None:
    """As in the guest, where `json` is not imported and the accelerator has no error class to raise."""
    root = Path(aegis.tether.__file__).parents[2]
    program = f"""if True:
        import sys
        sys.path.insert(0, {str(root)!r})
        from aegis.tether.jsontext import dumps, loads
        assert "json" not in sys.modules
        for bad in {BAD!r}:
            try:
                raise SystemExit(f"{{loads(bad)!r}} was read from {{bad[:20]!r}}")
            except ValueError:
                pass
        assert loads(dumps({{"a": [1, None, "x"]}})) == {{"a": [1, None, "x"]}}
    """
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, timeout=30)
