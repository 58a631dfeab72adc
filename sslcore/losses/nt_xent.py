"""NT-Xent: find the other view of the same image among all the other views of the batch.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR), ICML 2020, equation 1.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sslcore.losses.common import check_same_shape, inverse
from sslcore.losses.exchange import gathered_gram_lse
from sslcore.ops.numerics import Scalar, unit


def nt_xent(
    view_a: Float[Tensor, "n d"], view_b: Float[Tensor, "n d"], *, temperature: Scalar, gather: bool = True
) -> Float[Tensor, ""]:
    """Mean over all 2n views i of -log( exp(cos(z_i, z_pos(i)) / T) / sum_{j != i} exp(cos(z_i, z_j) / T) ).

    Args:
        view_a, view_b: (n, d) embeddings of two views; row i of both is the same image.
        temperature: T, a positive number, or a tensor without dimensions if it is learned.
        gather: with several processes, contrast with the views of all of them; all processes must then call the loss
            and its backward. Their batches must be equally large.

    Returns:
        The mean over this process's views; chance is ln(2n - 1), n counted over all processes.

    Raises:
        ValueError: the views differ in shape, or the temperature is not positive.
    """
    check_same_shape(view_a=view_a, view_b=view_b)
    scale = inverse(temperature)
    a, b = unit(view_a), unit(view_b)
    of_positive = (a * b).sum(1) * scale  # the same for both views of a pair
    of_others = gathered_gram_lse(torch.cat([a, b]), scale, gather=gather)
    return of_others.mean() - of_positive.mean()
