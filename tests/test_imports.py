import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

FORBIDDEN = {
    "storage": ("torch", "transformers", "av"),
    "alerts": ("torch", "transformers", "av"),
    "ingest": ("torch", "transformers"),
}
CODE = """
import sys
from importlib import import_module
for name in sys.argv[2].split(","):
    import_module(name)
print(*sorted(set(sys.argv[1].split(",")) & set(sys.modules)))
"""


def modules_of(package: str) -> list[str]:
    found = pkgutil.walk_packages(import_module(package).__path__, f"{package}.")
    # Alembic alone can run its environment and its steps.
    return [module.name for module in found if ".migrations." not in module.name]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_loads_nothing_heavy(package: str) -> None:
    modules = modules_of(package)
    assert modules
    loaded = subprocess.run(
        [sys.executable, "-c", CODE, ",".join(FORBIDDEN[package]), ",".join(modules)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == []
