"""Build `slipway_client`: this folder with the contracts inside it.

In the repository the client imports `contracts` and `clients.training` from the root; the distribution has a single
package. The build rewrites the imports in its copies, not in the sources.
"""

import re
from pathlib import Path
from typing import Any

from setuptools import setup  # type: ignore[import-untyped]
from setuptools.command.build_py import build_py  # type: ignore[import-untyped]

PACKAGE = "slipway_client"
IMPORT = re.compile(r"^(\s*(?:from|import)\s+)(clients\.training|contracts)\b", re.MULTILINE)
NEW_NAMES = {"clients.training": PACKAGE, "contracts": f"{PACKAGE}.contracts"}


class BuildRenamed(build_py):  # type: ignore[misc]  # setuptools is not typed
    """Copies the modules, then rewrites their imports to the names in the distribution."""

    def find_package_modules(self, package: str, package_dir: str) -> Any:
        """Return the modules of a package, without this file."""
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if (module[0], module[1]) != (PACKAGE, "setup")]

    def build_module(self, module: str, module_file: str, package: str) -> Any:
        """Copy a module and rewrite its absolute imports."""
        built, copied = super().build_module(module, module_file, package)
        path = Path(built)
        text = path.read_text(encoding="utf-8")
        path.write_text(IMPORT.sub(lambda match: match[1] + NEW_NAMES[match[2]], text), encoding="utf-8")
        return built, copied


setup(cmdclass={"build_py": BuildRenamed})
