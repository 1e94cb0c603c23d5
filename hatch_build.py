"""Compile the C helpers when the package is built, where there is a compiler."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuildHook(BuildHookInterface):
    """Puts the libraries into the wheel, which is then one of this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; without a compiler the wheel is pure Python, and slower."""
        path = Path(self.root) / "src" / "brimful" / "native" / "build.py"
        spec = importlib.util.spec_from_file_location("brimful_native_build", path)
        assert spec is not None and spec.loader is not None
        native = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(native)
        try:
            libraries = native.build()
        except native.CompilerError as error:
            print(f"brimful is built without its C helpers: {error}", file=sys.stderr)
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["artifacts"] += [f"src/brimful/native/{library.name}" for library in libraries]
