"""DML-CSR: decoupled multi-task face parsing with cyclical self-regulation (CVPR 2022, arXiv 2203.14448).

The method alone: PyTorch, NumPy and cv2. No Ray, no storage, no command line; those live in `pipelines`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmlcsr.library import load_model, parse

__all__ = ["load_model", "parse"]


def __getattr__(name: str) -> Any:
    """Loads torch only where it is used: every module of the project imports this package."""
    if name in __all__:
        from dmlcsr import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
