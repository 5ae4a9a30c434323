"""Train with the new losses: Gaussian rendering for the spectrum, scaled L1 for the precursor."""

import sys
from pathlib import Path

# The example is not installed: this makes its package importable from any working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denovo.cli import main

GAUSSIAN_LOSSES = {
    "spectrum": {"kind": "gaussian_kernel", "sigma": 0.05},
    "precursor": {"kind": "scaled_l1", "scale_factor": 0.004},
}

if __name__ == "__main__":
    main(__doc__, default_config="gaussian_test", losses=GAUSSIAN_LOSSES)
