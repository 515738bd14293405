"""The names that users import. In: the packages that open their rooms when asked. Out: every name is there."""

import subprocess
import sys
from types import ModuleType

import pytest

import separable
from separable import cost


@pytest.mark.parametrize("package", [separable, cost], ids=["separable", "cost"])
def test_every_name_can_be_had_and_is_no_other_thing(package: ModuleType) -> None:
    rooms = {"cost", "engine", "filters", "models", "nn"}
    for name in package.__all__:
        assert isinstance(getattr(package, name), ModuleType) == (name in rooms and package is separable)


def test_the_door_alone_imports_no_room() -> None:
    code = "import separable, sys; sys.exit(any(name.startswith(('torch', 'separable.')) for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
