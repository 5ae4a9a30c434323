"""Train with the old losses: hard-min Huber for the spectrum, log1p of the ppm error for the precursor."""

import sys
from pathlib import Path

# The example is not installed: this makes its package importable from any working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from denovo.cli import main

OLD_LOSSES = {
    "spectrum": {"kind": "hard_min_huber", "delta": 1.0, "scale": 0.05},
    "precursor": {"kind": "log1p_ppm", "ppm_scale": 1e5},
}

if __name__ == "__main__":
    main(__doc__, default_config="optimized_extended", losses=OLD_LOSSES)
