"""The networks of DML-CSR (docs/method.md, section 2): encoder, graph head, task heads, and their combinations."""

from dmlcsr.model.architecture import Architecture
from dmlcsr.model.dmlcsr import DMLCSR, FaceParser, TaskLogits

__all__ = ["DMLCSR", "Architecture", "FaceParser", "TaskLogits"]
