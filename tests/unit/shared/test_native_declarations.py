# SPDX-License-Identifier: MIT
"""Headers as cffi reads them."""

from __future__ import annotations

from shared.native.declarations import declarations


def test_declarations_keep_names_of_numbers_and_no_other_line_of_the_preprocessor() -> None:
    """cffi takes `#define NAME NUMBER`, with a comment behind it too, and nothing else with a #."""
    lines = declarations("embedded/native/protocol.h").splitlines()
    kept = [line for line in lines if line.startswith("#")]

    assert "#define EMBEDDED_GRANT_ENTRIES 16384u" in kept
    assert "#define EMBEDDED_MAGIC 0x6d656d64626e6578ull" in kept
    assert any(line.startswith("#define EMBEDDED_ANY_DOMID 0x7FF4u ") for line in kept)
    assert not [line for line in kept if not line.startswith("#define ") or "XENBACKD" in line]


def test_declarations_of_several_headers_stand_in_the_order_asked_for() -> None:
    """What one needs stands before it."""
    text = declarations("shared/native/hv_ops.h", "embedded/native/embedded.h")

    assert text.index("struct hv_ops {") < text.index("void embedded_fill_ops(struct hv_ops *ops,")
