"""Low rank, the one theorem under every family. In: a matrix. Out: its best approximation of any rank.

C. Eckart, G. Young, "The approximation of one matrix by another of lower rank", Psychometrika 1 (1936): of all matrices
of rank r the truncated singular value decomposition is nearest, and its squared error is the sum of the dropped
squared singular values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """What is left to do for any rank: ``left`` (…, m, s) and ``right`` (…, s, n) multiply out to the matrix.

    ``left`` has orthonormal columns, strongest first; ``energies`` (…, s) are the squared singular values.
    """

    left: Tensor
    right: Tensor
    energies: Tensor

    def truncate(self, rank: int) -> tuple[Tensor, Tensor, float]:
        """The best (…, m, r) and (…, r, n), and the energy that they leave out, summed over the leading axes."""
        return self.left[..., :rank], self.right[..., :rank, :], float(self.energies[..., rank:].sum())


def spectrum(matrix: Tensor) -> Spectrum:
    """Decompose (…, m, n), leading axes one by one.

    By the eigenvectors of the smaller Gram matrix, not by ``torch.linalg.svd``: 1536 × 1536 in 2 s instead of 11, and
    512 matrices of 512 × 9 in 0.03 s instead of 8. Squared singular values come out to about 1e-16 of the largest, and
    squares are all that an error is made of.
    """
    if matrix.shape[-2] <= matrix.shape[-1]:
        energies, left = eigenpairs(matrix @ matrix.mT)
        return Spectrum(left=left, right=left.mT @ matrix, energies=energies)
    energies, vectors = eigenpairs(matrix.mT @ matrix)
    left = matrix @ vectors
    scale = torch.linalg.vector_norm(left, dim=-2, keepdim=True)
    return Spectrum(left=left / scale.where(scale > 0, 1), right=scale.mT * vectors.mT, energies=energies)


def eigenpairs(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (…, s), largest first and never below zero, and eigenvectors (…, s, s) in columns."""
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(-1).clamp(min=0), vectors.flip(-1)
