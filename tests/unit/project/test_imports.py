# SPDX-License-Identifier: MIT
"""The import contracts (`contracts.py`), held against every file; `-s` prints them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.root import ROOT
from tests.unit.project.contracts import CONTRACTS, LAYERS, OURS, Imports


@pytest.fixture(scope="module")
def imports() -> Imports:
    """Of the product."""
    return Imports(ROOT)


def test_imports_keep_the_contracts_of_their_folders(imports: Imports) -> None:
    """Each folder imports only what its contract names."""
    print("", *CONTRACTS, sep="\n")  # noqa: T201 - for people
    assert imports.forbidden() == []


@pytest.mark.parametrize("package", LAYERS)
def test_imports_never_run_up(imports: Imports, package: str) -> None:
    """Each part of a package imports only parts below it, or beside it where that is allowed."""
    print(f"\n{package}, from top to bottom: {', '.join(LAYERS[package])}")  # noqa: T201 - as above
    assert imports.unplaced(package) == set()
    assert imports.upward(package) == []


def test_imports_close_no_circle() -> None:
    """No module imports itself by way of others, also not in benchmarks and tests."""
    assert Imports(ROOT, OURS).circle() == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("supervisor/daemon.py", "def run():\n    import worker.main"),
        ("worker/session.py", "if TYPE_CHECKING:\n    from worker.devices.block import backend"),
        ("worker/devices/other/backend.py", "from worker.devices.block.about import OPTIONS"),
        ("worker/devices/block/backend.py", "from embedded.domain import Domain"),
        ("worker/devices/block/about.py", "import zmq"),
        ("worker/devices/block/guest/ring.py", "from worker.devices.block.backend import Ring"),
        ("config/model.py", "from shared.errors import ConfigError"),
        ("shared/errors.py", "import tests.root"),
    ],
)
def test_contracts_name_what_breaks_them(tmp_path: Path, file: str, text: str) -> None:
    """An import that is not allowed is found wherever it is, with file and line."""
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text + "\n")
    module = file.removesuffix(".py").replace("/", ".")
    assert [line.partition(",")[0] for line in Imports(tmp_path).forbidden()] == [module]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("worker/devices/block/backend.py", "from worker.device import Device"),
        ("worker/devices/block/backend.py", "from worker.devices.block.about import OPTIONS"),
        ("worker/devices/block/about.py", "import msgspec\nimport re\nimport shared.device_types"),
        ("worker/devices/block/guest/ring.py", "from embedded.domain import Domain"),
        ("config/model.py", "from shared.device_types import DeviceType"),
    ],
)
def test_contracts_allow_what_they_name(tmp_path: Path, file: str, text: str) -> None:
    """A device type may import the framework, its own manifest, and its guest's hypervisor."""
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text + "\n")
    assert Imports(tmp_path).forbidden() == []


def test_layers_see_upward_imports_and_neighbours(tmp_path: Path) -> None:
    """Up is wrong, and so is sideways where two parts are kept apart."""
    for name, text in (
        ("policy/table.py", "import supervisor.xenstore.paths"),
        ("xenstore/paths.py", "import supervisor.device.device"),
        ("device/device.py", "import supervisor.policy.table"),
    ):
        path = tmp_path / "supervisor" / name
        path.parent.mkdir(parents=True)
        path.write_text(text + "\n")
    wrong = Imports(tmp_path).upward("supervisor")
    assert [line.partition(",")[0] for line in wrong] == [
        "supervisor.policy.table",
        "supervisor.xenstore.paths",
    ]


def test_circle_is_named_in_the_order_of_its_imports(tmp_path: Path) -> None:
    """Three files, each of which imports the next."""
    for name, next_one in (("a", "b"), ("b", "c"), ("c", "a")):
        path = tmp_path / "shared" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"import shared.{next_one}\n")
    found = Imports(tmp_path).circle()
    assert found[0] == found[-1]
    assert {"shared.a shared.b", "shared.b shared.c"} & {
        " ".join(found[at : at + 2]) for at in range(3)
    }
