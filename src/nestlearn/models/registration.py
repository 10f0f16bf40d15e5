"""Hope is known to transformers as soon as both are imported, in either order.

Registration needs transformers, which takes seconds to import; ``import nestlearn`` must not. So it waits
until somebody else imports transformers.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_HOPE = "nestlearn.models.hope"


def register_with_transformers() -> None:
    """Register Hope with transformers' Auto classes: at once if transformers is there, else when it comes."""
    if "transformers" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, AfterImport("transformers", _register))


def _register() -> None:
    """Import Hope, which registers itself; an installation that cannot is left working without it."""
    try:
        importlib.import_module(_HOPE)
    except Exception as error:  # whatever it is, it is no reason why `import transformers` should fail
        warnings.warn(f"Hope is not registered with transformers: {error}", RuntimeWarning, stacklevel=2)


class AfterImport(MetaPathFinder):
    """Calls a function once a module has been imported, and leaves ``sys.meta_path`` then.

    Args:
        module: Name of a module that is not imported yet.
        function: What to call.
    """

    def __init__(self, module: str, function: Callable[[], None]) -> None:
        self._module, self._function, self._asking = module, function, False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that calls the function afterwards."""
        if fullname != self._module or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            self._extend(spec.loader)
        return spec

    def _extend(self, loader: object) -> None:
        # On this one instance: its class and everything else that is asked of it stay as they are.
        run = loader.exec_module  # type: ignore[attr-defined]

        def exec_module(module: ModuleType) -> None:
            run(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._function()

        loader.exec_module = exec_module  # type: ignore[attr-defined]


__all__ = ["AfterImport", "register_with_transformers"]
