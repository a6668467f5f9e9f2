"""DML-CSR: decoupled multi-task face parsing with cyclical self-regulation (CVPR 2022, arXiv 2203.14448).

This package holds the method alone and needs PyTorch, NumPy, cv2 and Pillow. Ray, storage and the command line are in
`pipelines`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmlcsr.library import load_model, parse

__all__ = ["load_model", "parse"]


def __getattr__(name: str) -> Any:
    """Imports `load_model` and `parse`, and with them torch, at their first use.

    Every module of the project imports this package, and many do not need torch.
    """
    if name in __all__:
        from dmlcsr import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
