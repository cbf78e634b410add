"""Settings for all tests."""

from __future__ import annotations

import torch

# The cases are small: threads waiting for each other would cost more than they bring, most of all on a busy machine.
torch.set_num_threads(1)
