"""DML-CSR: decoupled multi-task face parsing with cyclical self-regulation (CVPR 2022, arXiv 2203.14448).

The method alone: PyTorch, NumPy and cv2. No Ray, no storage, no command line; those live in `pipelines`.
"""
