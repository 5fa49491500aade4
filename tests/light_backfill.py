"""The backfill command with the light model, on a Ray of its own: `python -m tests.light_backfill MODEL FOLDER`."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from pinstream.codes import Fingerprint
from pinstream.settings import Settings, load_settings
from rollout.backfill.ray_engine import RayEngine, RayOptions
from rollout.backfill.run import Backfill
from rollout.backfill.store_tables import BackfillTables
from rollout.generation import Generation, State
from tests.light_worker import BITS, HashEncoder, image_input

PART_ROWS = 60


class SlowEncoder(HashEncoder):
    """Slow enough to be killed in between."""

    def encode(self, images_BHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        time.sleep(0.1)
        return super().encode(images_BHWC)


class Load:
    """The light model, under any name."""

    def __init__(self, model: str, encoder: type[HashEncoder] = HashEncoder) -> None:
        self.model, self.encoder = model, encoder

    def __call__(self, settings: Settings) -> tuple[Any, Any, Fingerprint]:
        return self.encoder(), image_input, Fingerprint(self.model)


def replaying(model: Fingerprint, **fields: Any) -> Generation:
    return Generation(model=model.hex, bits=BITS, artifact="light", **{"state": State.REPLAYING, **fields})


def main() -> None:
    settings = load_settings()
    model = Fingerprint(sys.argv[1])
    local = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "_temp_dir": sys.argv[2]}
    print(f"parts done before: {len(BackfillTables(settings, model).parts('codes-0'))}", flush=True)
    work = Backfill(settings, replaying(model), Load(model.hex, SlowEncoder), part_rows=PART_ROWS, step=print)
    with RayEngine(RayOptions(local=local)) as engine:
        print(work.run(engine))


if __name__ == "__main__":
    main()
