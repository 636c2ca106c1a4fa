"""The cross-entropy of a linear layer's outputs as the textbook writes it.

Bishop 2006, Pattern Recognition and Machine Learning, section 4.3.4; with the classifier weight in the loss, equation 2
of Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009.
"""

from torch import Tensor

from reference.cross_entropy import cross_entropy


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """The mean of -log softmax(weight hidden)[target] over the rows whose target is not ignore_index.

    hidden (rows, K), weight (V, K), targets (rows,) -> a number.
    """
    return cross_entropy(hidden @ weight.T, targets, ignore_index)
