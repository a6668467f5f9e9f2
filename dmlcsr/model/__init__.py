"""The networks of DML-CSR (paper section 3): encoder, graph head, task heads, and what is made of them."""

from dmlcsr.model.architecture import Architecture
from dmlcsr.model.dmlcsr import DMLCSR, FaceParser, TaskLogits

__all__ = ["DMLCSR", "Architecture", "FaceParser", "TaskLogits"]
