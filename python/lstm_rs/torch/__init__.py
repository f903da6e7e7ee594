"""PyTorch's LSTM on this library's kernels: the module of a network, trained by PyTorch's autograd.

`LSTM` stands where ``torch.nn.LSTM`` stands, with the same arguments, parameters, files and answers; `convert` puts it
in the place of those that a model already has. Forward and backward run in lstm_rs, on the CPU, on the memory of the
tensors themselves: nothing is copied on the way in or out.

A training loop is what it was::

    import torch
    from lstm_rs.torch import LSTM

    lstm, head = LSTM(3, 64, num_layers=2, batch_first=True), torch.nn.Linear(64, 1)
    optimizer = torch.optim.Adam([*lstm.parameters(), *head.parameters()], lr=1e-3)
    for x, target in batches:                          # (N, T, 3) and (N, 1)
        y, (h, c) = lstm(x)
        loss = torch.nn.functional.mse_loss(head(y[:, -1]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

It takes PyTorch, which lstm_rs itself does not: ``import lstm_rs`` does not import this module.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("lstm_rs.torch needs PyTorch: pip install 'lstm-rs[torch]'") from error

from lstm_rs.torch._convert import convert
from lstm_rs.torch._module import LSTM

__all__ = ["LSTM", "convert"]
