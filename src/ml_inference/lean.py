"""Keeps out of memory what XGBoost imports and this product never uses: SciPy, some 15 MiB of a gateway and half a second.

XGBoost imports SciPy's sparse matrices to recognise them in what it is given. An object of a class that was never loaded cannot
exist, so that question has its answer without the class. Whoever does more than ask gets the real module, loaded at that
moment. Nothing may behave otherwise for it: another version of XGBoost that uses more of SciPy only costs the memory again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

_SPARSE = frozenset({"csr_matrix", "csr_array", "csc_matrix", "csc_array", "coo_matrix", "coo_array"})
UNUSED: Mapping[str, frozenset[str]] = {
    "numpy.random": frozenset({"Generator", "RandomState"}),
    "scipy": frozenset(),
    "scipy.sparse": _SPARSE,
    "scipy.special": frozenset({"softmax"}),
}
"""Modules, and what XGBoost names of each without using it: in annotations, and to ask whether something is an instance of it."""


def keep_xgboost_lean() -> None:
    """Import XGBoost, when it is first imported, without what it does not need; nothing if it is imported already."""
    if "xgboost" not in sys.modules and not any(isinstance(finder, _XGBoostFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _XGBoostFinder())


@contextmanager
def postponed(modules: Mapping[str, frozenset[str]]) -> Iterator[None]:
    """Within the context a module that is imported is not loaded until somebody uses it, then or later.

    Args:
        modules: Names of modules, and for each the names that may be imported from it without loading it.
    """
    finder = _PostponingFinder(modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Within the context a package seems not to be installed, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


class _XGBoostFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "xgboost":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LeanLoader(spec.loader)
        return spec


class _LeanLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__loader__ = module.__spec__.loader = self._loader
        # XGBoost's own wrapper for scikit-learn, which no device has, would load seconds' worth of modules elsewhere.
        with postponed(UNUSED), hidden("sklearn"):
            self._loader.exec_module(module)


class _PostponingFinder(MetaPathFinder):
    def __init__(self, modules: Mapping[str, frozenset[str]]) -> None:
        self._modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        names = self._modules.get(fullname)
        if names is None:
            return None
        # Of a postponed package only the place is wanted, not the package.
        spec = PathFinder.find_spec(fullname, path.folders if isinstance(path, _Path) else path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _PostponedLoader(spec.loader, names, list(spec.submodule_search_locations or ()))
        return spec


class _PostponedLoader(Loader):
    """Makes the module, and loads it when it is used.

    Args:
        loader: Loads it.
        names: May be imported from it without loading it.
        folders: Where its submodules are.
    """

    def __init__(self, loader: Loader, names: frozenset[str], folders: list[str]) -> None:
        self._loader = loader
        self._names = names
        self._folders = folders
        self._lock = RLock()
        self._loading = False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Postponed(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__path__ = _Path(module, self._folders)

    def attribute(self, module: ModuleType, name: str) -> Any:
        """What an attribute is that the module does not have yet."""
        if name in self._names and not self._loading:
            return _Name(module, name)
        self.load(module)
        return ModuleType.__getattribute__(module, name)

    def load(self, module: ModuleType) -> None:
        """Load the module for good; nothing if it is loaded, or is being loaded by this very thread."""
        with self._lock:
            if self._loading or type(module) is ModuleType:
                return
            self._loading = True
            try:
                module.__path__ = self._folders
                self._loader.exec_module(module)
            except BaseException:
                self.exec_module(module)  # whoever uses it next gets the same error
                raise
            finally:
                self._loading = False
            module.__loader__ = self._loader
            if module.__spec__ is not None:
                module.__spec__.loader = self._loader
            module.__class__ = ModuleType


def _load(module: ModuleType) -> None:
    if isinstance(module.__loader__, _PostponedLoader):
        module.__loader__.load(module)


class _Postponed(ModuleType):
    """A module that is not loaded yet."""

    def __getattr__(self, name: str) -> Any:
        # What the import system asks of any module is no use of it.
        if isinstance(self.__loader__, _PostponedLoader) and (name == "__all__" or not name.startswith("__")):
            return self.__loader__.attribute(self, name)
        raise AttributeError(name)


class _Path(list[str]):
    """Where submodules of a postponed module are; whoever looks loads the module first, as an import would.

    Args:
        module: The module.
        folders: The path.
    """

    def __init__(self, module: ModuleType, folders: Sequence[str]) -> None:
        super().__init__(folders)
        self.folders = list(folders)
        self._module = module

    def __iter__(self) -> Iterator[str]:
        _load(self._module)
        return iter(self.folders)


class _Name:
    """A class or function of a postponed module, until somebody does more with it than ask about an instance."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self.__module = module
        self.__name = name

    def __real(self) -> Any:
        _load(self.__module)
        return getattr(self.__module, self.__name)

    def __instancecheck__(self, instance: object) -> bool:
        return type(self.__module) is ModuleType and isinstance(instance, self.__real())

    def __subclasscheck__(self, subclass: type) -> bool:
        return type(self.__module) is ModuleType and issubclass(subclass, self.__real())

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.__real()(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__typing_") or name == "__parameters__":  # asked of whatever stands in an annotation
            raise AttributeError(name)
        return getattr(self.__real(), name)

    def __getitem__(self, item: Any) -> Any:
        return self.__real()[item]

    def __or__(self, other: Any) -> Any:
        return self.__real() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.__real()

    def __mro_entries__(self, _: tuple[object, ...]) -> tuple[Any, ...]:
        return (self.__real(),)
