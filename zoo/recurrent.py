"""The recurrent language model of the zoo."""

from torch import Tensor, nn


class LSTM(nn.Module):
    """An LSTM over bytes with a linear head.

    Args:
        width: of the embedding and the state.
        layers: stacked LSTMs.
    """

    vocabulary = 256

    def __init__(self, width: int, layers: int = 1) -> None:
        super().__init__()
        self.tokens = nn.Embedding(self.vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, self.vocabulary)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits (B, T, 256) of the next byte."""
        h_BTC, _ = self.lstm(self.tokens(tokens_BT))
        logits: Tensor = self.head(h_BTC)
        return logits
